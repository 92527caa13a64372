"""A batch of clips: uint8 until it is on the device, then cropped, resized, mirrored, recoloured and normalised in one go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from suite3d.engine.order import stream_seed


@dataclass(kw_only=True)
class ClipBatch:
    """B decoded samples, each with W windows of T frames and R random crops of every window.

    Attributes:
        frames: ``(B, W * T, H, W', 3)`` uint8 RGB where all frames have one size, else a list of B tensors ``(W * T, H_i, W_i, 3)``.
        boxes: ``(B, W, R, 4)`` int64 (top, left, height, width) of the crops, pixels of the frames.
        flips: ``(B, W, R)`` bool, mirror left and right.
        colors: ``(B, W, R, 3, 4)`` float32 colour maps, see :func:`suite3d.video.data.augment.draw_color`; None = colours as they are.
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


def crop_resize(frames: Tensor, boxes: Tensor, flips: Tensor, size: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Crop, resize with an anti-aliasing triangle filter, mirror: two matrix products for the whole batch.

    The filter is that of PIL's and torch's ``bilinear`` with anti-aliasing, and never reads outside the crop.

    Args:
        frames: ``(B, T, H, W, 3)`` uint8.
        boxes: ``(B, R, 4)`` (top, left, height, width). flips: ``(B, R)`` bool.
        size: S, side of the result.
        dtype: of the products; None = float16 on CUDA (tensor cores; within 0.3 of 255 grey levels of float32), float32 elsewhere.

    Returns:
        ``(B * R, 3, T, S, S)`` in ``dtype``, values 0 to 255.
    """
    dtype = dtype or (torch.float16 if frames.device.type == "cuda" else torch.float32)
    batch, length, height, width, _ = frames.shape
    repeats = boxes.shape[1]
    top, left, tall, wide = boxes.float().unbind(-1)  # [B, R]
    rows = resize_weights(top, tall, size, height).to(dtype)  # [B, R, S, H]
    columns = resize_weights(left, wide, size, width)  # [B, R, S, W]
    columns = torch.where(flips[..., None, None], columns.flip(2), columns).to(dtype)
    with torch.autocast(frames.device.type, enabled=False):
        planes = frames.permute(0, 4, 1, 2, 3).to(dtype, memory_format=torch.contiguous_format)  # [B, 3, T, H, W]
        narrow = planes.flatten(1, 3) @ columns.flatten(1, 2).mT  # [B, 3TH, RS]
        narrow = narrow.unflatten(1, (3 * length, height)).unflatten(3, (repeats, size))  # [B, 3T, H, R, S]
        pixels = rows[:, :, None] @ narrow.permute(0, 3, 1, 2, 4)  # [B, R, 3T, S, S]
    return pixels.reshape(batch * repeats, 3, length, size, size)


def resize_weights(start: Tensor, extent: Tensor, size: int, pixels: int) -> Tensor:
    """``(..., size, pixels)`` float32 rows that resize the pixels ``[start, start + extent)`` of a line to ``size`` pixels.

    Row s is a triangle around ``start + (s + 1/2) extent / size - 1/2`` of half width max(1, extent / size), cut to the extent; it sums to 1.
    """
    step = extent[..., None, None] / size
    place = torch.arange(pixels, device=start.device)  # [pixels]
    center = start[..., None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * step - 0.5  # [..., size, 1]
    weight = (1 - (place - center).abs() / step.clamp(min=1)).clamp(min=0)
    inside = (place >= start[..., None, None]) & (place < (start + extent)[..., None, None])
    weight = weight * inside
    return weight / weight.sum(-1, keepdim=True)


def normalise(pixels: Tensor, colors: Tensor | None, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(N, 3, T, S, S)`` in 0 to 255 -> float32 ``(colour(pixels / 255) - mean) / std``."""
    shift, scale = (torch.tensor(value, device=pixels.device, dtype=torch.float32)[:, None, None, None] for value in (mean, std))
    if colors is None:
        return torch.addcmul(-shift / scale, pixels.float(), 1 / (255 * scale))
    with torch.autocast(pixels.device.type, enabled=False):
        changed = torch.baddbmm(colors[:, :, 3:], colors[:, :, :3], pixels.float().flatten(2) / 255).clamp(0, 1)
    return (changed.view_as(pixels) - shift) / scale
