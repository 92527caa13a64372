"""What the methods have in common that predict a teacher's latents where a student saw nothing: V-JEPA and SALT.

    L = mean over mask kinds g of  mean_{i hidden by g} | predictor_g(student(context_g))_i - LN(teacher(clip)_i) |_1

LN is a LayerNorm without learned scale and shift. How many tokens a context has differs from clip to clip; the contexts are padded to a
constant length and the padding is kept out of the attention, so no token is ever cut off and no shape depends on the data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from suite3d.losses.masked_l1 import masked_l1
from suite3d.masking import Grid, generators_of, padded_indices, two_block_masks
from suite3d.methods.looking import MONITORED_ROWS
from suite3d.nn.predictor import LatentPredictor
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output
from suite3d.video.data.batch import ClipBatch

CAPACITY_DRAWS = 512
REDRAWS = 100


@dataclass(kw_only=True)
class BlockMaskConfig:
    """The two kinds of masks of V-JEPA 2, see :func:`suite3d.masking.two_block_masks`.

    Attributes:
        blocks: boxes in each kind of mask.
        scales: area of a box over that of the frame.
        aspect: range of a box's height over its width.
        fitting: share of all draws whose context fits the constant length it is padded to; longer ones are drawn again. More pads more.
    """

    blocks: tuple[int, ...] = (8, 2)
    scales: tuple[float, ...] = (0.15, 0.7)
    aspect: tuple[float, float] = (0.75, 1.5)
    fitting: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.fitting <= 1:
            raise ValueError(f"fitting expected a share in (0, 1], got {self.fitting}")


@dataclass(kw_only=True)
class Context:
    """What the student sees of B clips under one kind of mask.

    Attributes:
        index: ``(B, L)`` int64 visible tokens in increasing order, then padding.
        valid: ``(B, L)`` bool, False = padding.
        hidden: ``(B, N)`` bool, True = to be predicted.
    """

    index: Tensor
    valid: Tensor
    hidden: Tensor

    def to(self, device: torch.device) -> Context:
        index, valid, hidden = (x.to(device, non_blocking=True) for x in (self.index, self.valid, self.hidden))
        return Context(index=index, valid=valid, hidden=hidden)


class BlockContexts:
    """Draws the contexts of a batch; a pure function of the clips' seeds.

    Args:
        grid: tokens along (t, h, w).
        config: see :class:`BlockMaskConfig`.

    Attributes:
        lengths: L of each kind: what ``config.fitting`` of 512 fixed draws need.
    """

    def __init__(self, grid: Grid, config: BlockMaskConfig) -> None:
        self.grid, self.config = grid, config
        visible = (~self._draw(range(CAPACITY_DRAWS), "capacity")).sum(dim=2).sort(dim=1).values  # [G, draws]
        self.lengths: list[int] = visible[:, math.ceil(config.fitting * CAPACITY_DRAWS) - 1].tolist()

    def _draw(self, seeds: range | list[int], purpose: str) -> Tensor:
        config = self.config
        return two_block_masks(self.grid, generators_of(list(seeds), purpose), blocks=config.blocks, scales=config.scales, aspect=config.aspect)

    def masks(self, seeds: list[int]) -> Tensor:
        """``(G, B, N)`` bool on the CPU, True = hidden; every context fits. Raises RuntimeError if no draw of a clip does."""
        masks = self._draw(seeds, "mask")
        limits = torch.tensor(self.lengths)[:, None]
        for attempt in range(1, REDRAWS):
            long = (~masks).sum(dim=2) > limits  # [G, B]
            rows = long.any(dim=0).nonzero()[:, 0]
            if not len(rows):
                return masks
            again = self._draw([seeds[row] for row in rows.tolist()], f"mask/{attempt}")
            masks[:, rows] = torch.where(long[:, rows, None], again, masks[:, rows])
        raise RuntimeError(f"no block mask within {self.lengths} visible tokens in {REDRAWS} draws: raise method.masks.fitting")

    def draw(self, seeds: list[int], device: torch.device) -> list[Context]:
        """One context of every clip for each kind of mask, all of a kind of one length."""
        contexts = []
        for hidden, length in zip(self.masks(seeds), self.lengths, strict=True):
            index, valid = padded_indices(~hidden, length)
            contexts.append(Context(index=index, valid=valid, hidden=hidden).to(device))
        return contexts


class MaskedLatents(nn.Module, ABC):
    """A student, a predictor and a teacher. Subclasses say where the teacher comes from.

    Args:
        predictor: from the student's to the teacher's latents, over the student's grid.
        grid: the student's token grid.
        masks: see :class:`BlockMaskConfig`.
    """

    def __init__(self, predictor: LatentPredictor, grid: Grid, masks: BlockMaskConfig) -> None:
        super().__init__()
        if tuple(predictor.grid) != tuple(grid):
            raise ValueError(f"the predictor must have the student's grid {tuple(grid)}, it has {tuple(predictor.grid)}")
        if len(predictor.mask_tokens) != len(masks.blocks):
            raise ValueError(f"the predictor must have a mask token for each of {len(masks.blocks)} masks, it has {len(predictor.mask_tokens)}")
        self.predictor = predictor
        self.contexts = BlockContexts(grid, masks)

    @abstractmethod
    def branches(self) -> tuple[VisionTransformer, VisionTransformer]:
        """The student and the teacher."""

    def train(self, mode: bool = True) -> MaskedLatents:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.branches()[1].eval()
        return self

    def forward(self, batch: ClipBatch) -> Output:
        pixels, contexts = self.prepare(batch)
        target = self.targets(pixels)
        loss, tokens = self.predict(pixels, contexts, target)
        metrics: dict[str, Tensor | float] = {
            "short_clips": batch.short.float().mean(),
            "visible": torch.stack([context.valid.sum() / context.hidden.numel() for context in contexts]).mean(),
            "padding": torch.stack([1 - context.valid.float().mean() for context in contexts]).mean(),
            "target_std": target.flatten(0, 1).std(dim=0).mean(),
        }
        hidden = torch.stack([context.hidden[0] for context in contexts])
        pictures = partial(context_pictures, pixels[0], hidden, self.branches()[0].patch, batch)
        return Output(loss=loss, metrics=metrics, features=_monitored(tokens.detach(), contexts[0].valid), visuals=pictures)

    @torch.compiler.disable
    def prepare(self, batch: ClipBatch) -> tuple[Tensor, list[Context]]:
        """Pixels ``(B', 3, T, S, S)`` of all crops, and what the student sees of each, for each kind of mask."""
        return batch.pixels(), self.contexts.draw(batch.view_seeds(), batch.device)

    @torch.no_grad()
    def targets(self, pixels: Tensor) -> Tensor:
        """``(B, N, D)`` float32: the teacher's latents of the whole clip, each normalised over its channels."""
        latents = self.branches()[1](pixels).float()
        return F.layer_norm(latents, latents.shape[-1:])

    def predict(self, pixels: Tensor, contexts: list[Context], target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the student's tokens ``(B, L, D)`` under the first kind of mask."""
        student = self.branches()[0]
        losses, seen = [], []
        for kind, context in enumerate(contexts):
            tokens = student(pixels, context.index, context.valid)  # [B, L, D]
            predicted = self.predictor(tokens, context.index, context.valid, mask=kind)  # [B, N, D]
            losses.append(masked_l1(predicted, target, context.hidden))
            seen.append(tokens)
        return torch.stack(losses).mean(), seen[0]


def _monitored(tokens: Tensor, valid: Tensor) -> Tensor:
    """At most 2048 real tokens ``(<= 2048, D)``, equally many of each clip, evenly spread over what is not padding."""
    each = max(min(MONITORED_ROWS // len(tokens), tokens.shape[1]), 1)
    place = (torch.arange(each, device=tokens.device) * valid.sum(dim=1, keepdim=True)) // each  # [B, each] < number of real tokens
    return tokens.gather(1, place[..., None].expand(-1, -1, tokens.shape[2])).flatten(0, 1)


def context_pictures(pixels: Tensor, hidden: Tensor, patch: tuple[int, int, int], batch: ClipBatch) -> dict[str, Any]:
    """The first clip, and what is left of it under each mask; what is hidden is grey.

    Args:
        pixels: ``(3, T, H, W)`` normalised.
        hidden: ``(G, N)`` bool.
        patch: frames, height, width of a token.
        batch: gives the normalisation of the pixels and the clip's name.
    """
    from suite3d.report.clip import draw_strip

    mean, std = (torch.tensor(value, device=pixels.device)[:, None, None, None] for value in (batch.mean, batch.std))
    clip = pixels.float() * std + mean  # [3, T, H, W] in [0, 1]
    grid = [size // step for size, step in zip(pixels.shape[1:], patch, strict=True)]
    rows = [clip]
    for mask in hidden:
        grey = mask.view(grid)
        for axis, step in enumerate(patch):
            grey = grey.repeat_interleave(step, dim=axis)
        rows.append(torch.where(grey, 0.5, clip))
    frames = [(rearrange(row, "c t h w -> t h w c").clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy() for row in rows]
    return {"context": draw_strip(frames, ["clip", *(f"mask {i + 1}" for i in range(len(hidden)))], title=batch.names[0])}
