"""A batch of clips: uint8 until it is on the device, then cropped, resized, mirrored, recoloured and normalised in one go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from suite3d.engine.order import stream_seed
from suite3d.image.crops import crop_resize, normalise


@dataclass(kw_only=True)
class ClipBatch:
    """B decoded samples, each with W windows of T frames and R random crops of every window.

    Attributes:
        frames: ``(B, W * T, H, W', 3)`` uint8 RGB where all frames have one size, else a list of B tensors ``(W * T, H_i, W_i, 3)``.
        boxes: ``(B, W, R, 4)`` int64 (top, left, height, width) of the crops, pixels of the frames.
        flips: ``(B, W, R)`` bool, mirror left and right.
        colors: ``(B, W, R, 3, 4)`` float32 colour maps, see :func:`suite3d.image.views.draw_color`; None = colours as they are.
        labels: ``(B,)`` int64 class, -1 = none.
        names: B short names.
        seeds: B sample seeds.
        starts: ``(B, W)`` int64 first frame of each window.
        short: ``(B,)`` bool: the video was shorter than a window, so its last frame stands in for what is missing.
        clip: (T, S): frames of a window, and the side of the pixels that come out.
        mean, std: per channel, of pixels in [0, 1].
    """

    frames: Tensor | list[Tensor]
    boxes: Tensor
    flips: Tensor
    colors: Tensor | None
    labels: Tensor
    names: list[str]
    seeds: list[int]
    starts: Tensor
    short: Tensor
    clip: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def repeats(self) -> int:
        return self.boxes.shape[2]

    @property
    def windows(self) -> int:
        return self.boxes.shape[1]

    @property
    def device(self) -> torch.device:
        return self.boxes.device

    def view_seeds(self, view: int = 0) -> list[int]:
        """B * R seeds, in the order of :meth:`pixels`: what the masks of a crop are drawn from."""
        return [stream_seed("crop", seed, view, repeat) for seed in self.seeds for repeat in range(self.repeats)]

    def to(self, device: torch.device | str) -> ClipBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ClipBatch:
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> ClipBatch:
        return replace(
            self,
            frames=[change(clip) for clip in self.frames] if isinstance(self.frames, list) else change(self.frames),
            boxes=change(self.boxes),
            flips=change(self.flips),
            colors=None if self.colors is None else change(self.colors),
            labels=change(self.labels),
            starts=change(self.starts),
            short=change(self.short),
        )

    @torch.no_grad()
    def pixels(self, view: int = 0) -> Tensor:
        """``(B * R, 3, T, S, S)`` float32 normalised crops of window ``view``; the R crops of a sample follow one another."""
        return self.normalised(self.crops(view), view)

    @torch.no_grad()
    def crops(self, view: int = 0) -> Tensor:
        """As :meth:`pixels`, before colours and normalisation: values 0 to 255, see :func:`crop_resize`."""
        length, size = self.clip
        window = slice(view * length, (view + 1) * length)
        boxes, flips = self.boxes[:, view], self.flips[:, view]
        if isinstance(self.frames, list):
            parts = [crop_resize(clip[None, window], boxes[i : i + 1], flips[i : i + 1], size) for i, clip in enumerate(self.frames)]
            return torch.cat(parts)
        return crop_resize(self.frames[:, window], boxes, flips, size)

    @torch.no_grad()
    def normalised(self, crops: Tensor, view: int = 0) -> Tensor:
        """Colours and normalisation of what :meth:`crops` gave."""
        colors = None if self.colors is None else self.colors[:, view].flatten(0, 1)  # [BR, 3, 4]
        return normalise(crops, colors, mean=self.mean, std=self.std)
