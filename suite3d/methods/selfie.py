"""Selfie: from the patches of a picture that are left, say which of the cut-out patches belongs into which hole.

Trinh, Luong, Le, "Selfie: Self-supervised Pretraining for Image Embedding", 2019 (figures 1 and 2, section 2).

    h_i = P(patch i) for every patch by itself,   u = first output of A(u_0, h_i + p_i : i visible),   v_j = u + p_j
    L = mean over holes j of -log( exp(v_j . h_j) / sum_{k hidden} exp(v_j . h_k) )

The seven slots: one crop; a quarter of the patches hidden uniformly at random; each patch goes through the network alone, so nothing is gathered
but whole patches; the first three stages of a ResNet, averaged to one vector (P); attention pooling, a transformer with a learned first token (A);
the hidden patches' own vectors, without positions, are the classes, the other hidden patches of the same picture the distractors; cross-entropy.
All holes of a picture are predicted at once. Choosing needs no pixel to be right. The part that survives is P: the first three stages of the ResNet,
which fine-tuning completes with a fresh fourth; A is thrown away.

Choices where the paper is silent or not certain to us: the hidden quarter; transformer blocks that normalise first, with a LayerNorm at the end;
positions that are the sum of a learned vector for the row and one for the column at every picture size; no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from suite3d.image.backbones.resnet import ResNet
from suite3d.image.data.batch import ImageBatch
from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.rows import dots
from suite3d.masking import generators_of, hidden_count, hidden_indices, tube_mask, visible_indices
from suite3d.nn.block import Block
from suite3d.nn.initialise import initialise
from suite3d.output import Output


@dataclass(kw_only=True)
class SelfieConfig:
    """Selfie.

    Attributes:
        patch: side of a patch, pixels. The paper: 8 for pictures of 32, 32 for pictures of 224.
        mask_ratio: share of the patches cut out; at least two are needed, since the others are the distractors.
    """

    patch: int = 32
    mask_ratio: float = 0.25

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)
        if self.patch < 1:
            raise ValueError(f"patch expected a positive side, got {self.patch}")


class AttentionPooling(nn.Module):
    """The vectors of some patches of a picture to one, and the places of all.

    Args:
        dim: channels of the vectors.
        grid: patches along a side.
        depth, heads, hidden: blocks, attention heads, hidden channels of the feed-forward parts.
        generator: source of the initial weights.
    """

    def __init__(self, dim: int, grid: int, *, depth: int = 3, heads: int = 32, hidden: int = 640, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.first = nn.Parameter(torch.empty(1, 1, dim))
        self.rows, self.columns = nn.Parameter(torch.empty(grid, dim)), nn.Parameter(torch.empty(grid, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio=hidden / dim, qkv_bias="full") for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh."""
        initialise(self, generator)
        for parameter in (self.first, self.rows, self.columns):
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    def places(self, index: Tensor) -> Tensor:
        """Positions of the patches ``index (B, V)``, ``(B, V, dim)``."""
        return self.rows[index // self.grid] + self.columns[index % self.grid]

    def forward(self, vectors: Tensor, index: Tensor) -> Tensor:
        """``vectors (B, V, dim)`` of the patches ``index (B, V)`` -> u ``(B, dim)``."""
        x = torch.cat((self.first.expand(len(vectors), -1, -1), vectors + self.places(index)), dim=1)  # [B, 1 + V, dim]
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])


class Selfie(nn.Module):
    """Selfie around the first stages of a residual network.

    Args:
        encoder: P.
        pooling: A, over the patches of the recipe's pictures.
        config: see :class:`SelfieConfig`.

    Raises:
        ValueError: a mask that leaves fewer than two patches to choose from.
    """

    def __init__(self, encoder: ResNet, pooling: AttentionPooling, config: SelfieConfig | None = None) -> None:
        super().__init__()
        self.config = config or SelfieConfig()
        patches = pooling.grid**2
        if hidden_count(patches, self.config.mask_ratio) < 2:
            raise ValueError(
                f"Selfie chooses among the cut-out patches: mask_ratio={self.config.mask_ratio} of {patches} patches leaves fewer than two"
            )
        self.encoder, self.pooling = encoder, pooling

    def forward(self, batch: ImageBatch) -> Output:
        pixels, grid = batch.pixels(), self.pooling.grid  # [B, 3, S, S]
        if pixels.shape[-1] != grid * self.config.patch:
            raise ValueError(f"expected pictures of {grid} x {self.config.patch} pixels, got {pixels.shape[-1]}")
        mask = tube_mask((1, grid, grid), self.config.mask_ratio, generators_of(batch.view_seeds(), "mask"), device=batch.device)
        hidden = int(mask[0].sum())
        visible, holes = visible_indices(mask, mask.shape[1] - hidden), hidden_indices(mask, hidden)
        vectors = self.vectors(pixels)  # [B, N, D]
        seen, candidates = _rows(vectors, visible), _rows(vectors, holes)  # [B, V, D], [B, M, D]
        queries = self.pooling(seen, visible)[:, None] + self.pooling.places(holes)  # [B, M, D]
        scores = dots(queries.float(), candidates.float())  # [B, M holes, M candidates]
        right = torch.arange(hidden, device=scores.device).expand(len(scores), -1)  # [B, M]
        errors = F.cross_entropy(scores.flatten(0, 1), right.flatten(), reduction="sum")
        chosen = scores.detach().argmax(dim=2)  # [B, M]
        return Output(
            loss=mean_over_ranks(errors, right.numel()),
            metrics={"chosen_right": (chosen == right).float().mean(), "chance": 1 / hidden},
            features=vectors.detach().mean(dim=1),
            visuals=partial(self.pictures, pixels[0], holes[0], holes[0][chosen[0]], batch),
        )

    def vectors(self, pixels: Tensor) -> Tensor:
        """``(B, 3, S, S)`` -> ``(B, N, D)``: every patch through P by itself."""
        patches = rearrange(pixels, "b c (H p) (W q) -> (b H W) c p q", p=self.config.patch, q=self.config.patch)
        return self.encoder(patches).mean(dim=1).unflatten(0, (len(pixels), -1))

    def pictures(self, pixels: Tensor, holes: Tensor, chosen: Tensor, batch: ImageBatch) -> dict[str, Any]:
        """The first picture, with holes, and with the chosen patches in them."""
        from suite3d.report.clip import draw_strip

        side, grid = self.config.patch, self.pooling.grid
        mean, std = (torch.tensor(value, device=pixels.device)[:, None, None] for value in (batch.mean, batch.std))
        patches = rearrange((pixels.float() * std + mean).clamp(0, 1), "c (H p) (W q) -> (H W) p q c", p=side, q=side)
        cut, filled = patches.clone(), patches.clone()
        cut[holes], filled[holes] = 0.5, patches[chosen]
        rows = [rearrange(part, "(H W) p q c -> 1 (H p) (W q) c", H=grid) for part in (patches, cut, filled)]
        frames = [(row * 255).round().to(torch.uint8).cpu().numpy() for row in rows]
        return {"chosen": draw_strip(frames, ["original", "cut out", "chosen"], title=batch.names[0])}


def _rows(vectors: Tensor, index: Tensor) -> Tensor:
    """``(B, N, D)``, ``(B, V)`` -> ``(B, V, D)``."""
    return vectors.gather(1, index[..., None].expand(-1, -1, vectors.shape[2]))
