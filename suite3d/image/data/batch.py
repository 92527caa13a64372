"""A batch of pictures and the views drawn of them; pixels stay uint8 until they are on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from suite3d.engine.order import stream_seed
from suite3d.image.appearance import AppearanceConfig, change_appearance
from suite3d.image.crops import crop_resize, normalise
from suite3d.image.style import StyleDraw, standardise_style

Pictures = Tensor | list[Tensor]
"""``(B, 1, H, W, 3)`` uint8 where all have one size, else B tensors ``(1, H_i, W_i, 3)``."""


@dataclass(kw_only=True)
class ViewDraw:
    """One view of every sample, as numbers: dense, equivariant and view-action methods read them.

    Attributes:
        picture: which picture of the sample it shows (1 = the other picture of a pair).
        boxes: ``(B, 4)`` int64 (top, left, height, width) of the crop, pixels of that picture.
        sizes: ``(B, 2)`` int64 height and width of that picture.
        flips: ``(B,)`` bool, mirrored left and right.
        colors: ``(B, 3, 4)`` float32 colour maps (:func:`suite3d.image.views.draw_color`); None = colours as they are.
        size: side S of the view, pixels.
        appearance: blur and solarisation.
        style: amplitude spectrum that all samples take; None = each keeps its own.
    """

    picture: int
    boxes: Tensor
    sizes: Tensor
    flips: Tensor
    colors: Tensor | None
    size: int
    appearance: AppearanceConfig
    style: StyleDraw | None = None


@dataclass(kw_only=True)
class ImageBatch:
    """B samples with V views each.

    Attributes:
        pictures: one entry a picture of the sample: one, or two for pairs.
        views: V of them.
        labels: ``(B,)`` int64 class, -1 = none. Pretraining never reads them.
        names: B short names.
        seeds: B sample seeds.
        mean, std: per channel, of pixels in [0, 1].
    """

    pictures: list[Pictures]
    views: list[ViewDraw]
    labels: Tensor
    names: list[str]
    seeds: list[int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def view_seeds(self, view: int = 0) -> list[int]:
        """B seeds of one view: what its masks are drawn from."""
        return [stream_seed("view", seed, view) for seed in self.seeds]

    def to(self, device: torch.device | str) -> ImageBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ImageBatch:
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> ImageBatch:
        views = [
            replace(
                view,
                boxes=change(view.boxes),
                sizes=change(view.sizes),
                flips=change(view.flips),
                colors=None if view.colors is None else change(view.colors),
            )
            for view in self.views
        ]
        pictures = [[change(one) for one in part] if isinstance(part, list) else change(part) for part in self.pictures]
        return replace(self, pictures=pictures, views=views, labels=change(self.labels))

    def runs(self, views: range | None = None) -> Iterator[tuple[list[int], Tensor]]:
        """Runs of neighbouring views of one size, and their pixels ``(V * B, 3, S, S)``, view after view.

        Args:
            views: which ones; None = all.
        """
        for _, run in groupby(range(len(self.views)) if views is None else views, key=lambda view: self.views[view].size):
            numbers = list(run)
            yield numbers, torch.cat([self.pixels(view) for view in numbers])

    @torch.no_grad()
    def pixels(self, view: int = 0) -> Tensor:
        """``(B, 3, S, S)`` float32 normalised pixels of one view."""
        draw = self.views[view]
        crops = self.crops(view)
        if draw.style is not None:
            crops = standardise_style(crops, draw.style).clamp(0, 255)
        pixels = normalise(crops[:, :, None], draw.colors, mean=self.mean, std=self.std)
        return change_appearance(pixels, draw.appearance, self.view_seeds(view), mean=self.mean, std=self.std)[:, :, 0]

    @torch.no_grad()
    def crops(self, view: int = 0) -> Tensor:
        """``(B, 3, S, S)`` before style, colours and normalisation, values 0 to 255."""
        draw = self.views[view]
        pictures, boxes, flips = self.pictures[draw.picture], draw.boxes[:, None], draw.flips[:, None]
        if isinstance(pictures, list):
            parts = [crop_resize(one[None], boxes[i : i + 1], flips[i : i + 1], draw.size) for i, one in enumerate(pictures)]
            return torch.cat(parts)[:, :, 0]
        return crop_resize(pictures, boxes, flips, draw.size)[:, :, 0]


def relative_box(batch: ImageBatch, view: int, other: int) -> Tensor:
    """``(B, 4)`` float32 (top, left, height, width) of a view's crop in units of another view's crop, mirrored as that other view is.

    Views must show the same picture. This is what the action of seq-JEPA and the overlap of PixPro are made of.
    """
    first, second = batch.views[view], batch.views[other]
    if first.picture != second.picture:
        raise ValueError(f"views {view} and {other} show different pictures of a pair, so their crops have no common frame")
    box, frame = first.boxes.float(), second.boxes.float()
    relative = (box - torch.cat((frame[:, :2], torch.zeros_like(frame[:, 2:])), dim=1)) / frame[:, 2:].repeat(1, 2)
    mirrored = relative.clone()
    mirrored[:, 1] = 1 - relative[:, 1] - relative[:, 3]
    return torch.where(second.flips[:, None], mirrored, relative)


def stack_pictures(pictures: Sequence[Tensor]) -> Pictures:
    """``(H, W, 3)`` uint8 pictures as a batch holds them."""
    frames = [picture[None] for picture in pictures]
    return torch.stack(frames) if all(frame.shape == frames[0].shape for frame in frames) else frames
