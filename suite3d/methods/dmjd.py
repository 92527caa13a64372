"""DMJD: views of one picture hide disjoint sets of patches; what is hidden and what is seen are both asked for their edges.

Ma et al., "Disjoint Masking with Joint Distillation for Efficient Masked Image Modeling", TMM 2023 (figures 2 and 3).

    L = mean over views v and the patches i predicted in v of |decoder(encoder(visible_v))_i - h_i|^2
      + w * mean over views v and the patches j visible in v of smooth_L1(project(encoder(visible_v)_j) - h_j)

h are histograms of oriented gradients (MaskFeat's), each scaled to mean 0 and deviation 1. Each of two views hides 60 % of the blocks of 2 x 2
patches; a patch is predicted in one view only, so one step asks for every patch of the picture once, where MAE asks for three quarters of them
at a higher mask ratio. The second term makes the visible tokens carry the target as well: "joint distillation".

The seven slots: one crop; disjoint masks of blocks; the visible patches of each view; a ViT; a narrow ViT over visible and mask tokens for the
hidden ones, a perceptron for the visible ones; HOG; squared error, smooth L1.

The paper's learning rate grows with predicted / hidden patches of a picture, 1 / 0.6 with two views; put that into ``base_lr``.

Differences to the paper: a plain ViT instead of ConvMAE's hybrid of convolutions and transformer, whose stages need masked convolutions.
Differences to the released code: it scores all hidden patches of each view, so that one in five counts twice; here the views share the patches
out, as the paper's disjointness asks (mask tokens stand at all hidden places either way).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.hog import hog_target
from suite3d.losses.masked_pixels import token_mse
from suite3d.losses.smooth_l1 import smooth_l1_loss
from suite3d.masking import disjoint_block_masks, generators_of, hidden_count, hidden_indices, visible_indices
from suite3d.methods.looking import monitored_tokens, view_frames
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.initialise import initialise
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output


@dataclass(kw_only=True)
class DMJDConfig:
    """DMJD.

    Attributes:
        mask_ratio: share of the blocks hidden in each view.
        views: masked views of a picture.
        block: side of a block, patches.
        cell, bins: of the histograms: side of a cell in pixels (divides the patch), directions.
        visible: w.
        beta: where the smooth L1 changes from square to line.
        hidden: channels of the perceptron on the visible tokens.
    """

    mask_ratio: float = 0.6
    views: int = 2
    block: int = 2
    cell: int = 8
    bins: int = 9
    visible: float = 1.0
    beta: float = 2.0
    hidden: int = 512

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)
        if min(self.views, self.block) < 1 or self.visible < 0 or not self.beta > 0:
            raise ValueError(f"expected at least one view and block side, visible >= 0 and beta > 0, got {self}")

    def outputs(self, encoder: VisionTransformer) -> int:
        """Numbers in the target of a patch. Raises ValueError for a cell that does not divide it."""
        patch = encoder.patch[1]
        if encoder.patch[2] != patch or self.cell < 1 or patch % self.cell:
            raise ValueError(f"histograms need square patches of a whole number of cells, got patches {encoder.patch[1:]} and cell={self.cell}")
        return encoder.config.channels * self.bins * (patch // self.cell) ** 2


class VisibleHead(nn.Sequential):
    """Tokens to targets: three layers with LayerNorm (the last without scale and shift), then a linear one."""

    def __init__(self, dim: int, hidden: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for before in (dim, hidden):
            layers += [nn.Linear(before, hidden), nn.LayerNorm(hidden, eps=1e-6), nn.GELU()]
        layers += [nn.Linear(hidden, hidden), nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False), nn.Linear(hidden, outputs)]
        super().__init__(*layers)
        initialise(nn.ModuleList(layer for layer in layers if isinstance(layer, nn.Linear)))


class DMJD(nn.Module):
    """DMJD around a vision transformer.

    Args:
        encoder: what is pretrained.
        decoder: with ``config.outputs(encoder)`` outputs.
        config: see :class:`DMJDConfig`.

    Raises:
        ValueError: a decoder whose outputs do not fit the target; cells or blocks that do not divide.
    """

    def __init__(self, encoder: VisionTransformer, decoder: SelfDecoder | CrossDecoder, config: DMJDConfig | None = None) -> None:
        super().__init__()
        self.config = config or DMJDConfig()
        outputs = self.config.outputs(encoder)
        if decoder.head.out_features != outputs:
            raise ValueError(f"the decoder must predict the {outputs} numbers of a patch's histograms, it predicts {decoder.head.out_features}")
        if any(side % self.config.block for side in encoder.grid[1:]):
            raise ValueError(f"expected a block that divides the token grid {encoder.grid[1:]}, got {self.config.block}: set method.block")
        self.encoder, self.decoder = encoder, decoder
        self.visible_head = VisibleHead(encoder.embed_dim, self.config.hidden, outputs)

    def forward(self, batch: ImageBatch) -> Output:
        pixels = batch.pixels()  # [B, 3, S, S]
        masks, asked = self.masks(batch.view_seeds(), batch.device)  # [V, B, N]
        hidden = int(masks[0, 0].sum())
        every = masks.flatten(0, 1)  # [V * B, N]
        visible, targets = visible_indices(every, every.shape[1] - hidden), hidden_indices(every, hidden)
        tokens = self.encoder(pixels.repeat(len(masks), 1, 1, 1), visible)  # [V * B, N - M, D]
        predicted = self.decoder(tokens, visible, targets)  # [V * B, M, K]
        wanted = self.target(pixels).repeat(len(masks), 1, 1)  # [V * B, N, K]
        masked = token_mse(predicted, _rows(wanted, targets), weight=asked.flatten(0, 1).gather(1, targets))
        seen = smooth_l1_loss(self.visible_head(tokens), _rows(wanted, visible), beta=self.config.beta)
        return Output(
            loss=masked + self.config.visible * seen,
            metrics={"masked": masked.detach(), "visible": seen.detach()},
            features=monitored_tokens(tokens),
            visuals=partial(self.pictures, pixels[0], masks[:, 0], batch),
        )

    def masks(self, seeds: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """``(V, B, N)`` bool twice: hidden in a view, and predicted there."""
        side = self.config.block
        generators = generators_of(seeds, "mask")
        return disjoint_block_masks(
            self.encoder.grid, self.config.mask_ratio, generators, views=self.config.views, block=(1, side, side), device=device
        )

    @torch.no_grad()
    def target(self, pixels: Tensor) -> Tensor:
        """``(B, N, K)`` histograms of each patch, every one scaled to mean 0 and deviation 1. The normalisation of the pixels cancels."""
        config = self.config
        values = hog_target(pixels, patch=self.encoder.patch[1], cell=config.cell, bins=config.bins)
        histograms = rearrange(values, "b n (c o k) -> b n c k o", c=pixels.shape[1], o=config.bins)
        return rearrange(F.layer_norm(histograms, (config.bins,)), "b n c k o -> b n (c o k)")

    def pictures(self, pixels: Tensor, masks: Tensor, batch: ImageBatch) -> dict[str, Any]:
        """The first picture, whole and as each view sees it; ``masks (V, N)``."""
        from suite3d.report.clip import draw_strip

        grid, patch = self.encoder.grid, self.encoder.patch
        grey = torch.tensor([(0.5 - mean) / std for mean, std in zip(batch.mean, batch.std, strict=True)]).to(pixels)[:, None, None]
        inside = masks.unflatten(1, grid[1:]).repeat_interleave(patch[1], 1).repeat_interleave(patch[2], 2)  # [V, S, S]
        rows = [pixels, *(torch.where(one, grey, pixels) for one in inside)]
        labels = ["original", *(f"view {view + 1}" for view in range(len(masks)))]
        return {"masks": draw_strip([view_frames(row[:, None], batch) for row in rows], labels, title=batch.names[0])}


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """``(B, N, K)`` at ``index (B, M)`` -> ``(B, M, K)``."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))
