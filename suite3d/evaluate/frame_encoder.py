"""Token maps of whole frames of any size, by an encoder of pictures or of clips."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from suite3d.nn.positions import resample_table
from suite3d.nn.vit import VisionTransformer


@dataclass(kw_only=True)
class FrameEncoder:
    """Frames -> ``(T, h, w, D)``: the short side is brought to ``size``, the long side so that the aspect stays, up to whole patches.

    An encoder of clips sees a frame as a clip that stands still, just long enough for one token in time, at the positions of its first
    moment: what it knows of appearance and place, not of motion.

    Attributes:
        encoder: a vision transformer, or a network ``(B, 3, [T,] H, W)`` -> ``(B, h * w, D)``.
        size: short side, pixels.
        mean, std: per channel, of pixels in [0, 1].
        multiple: both sides become multiples of this, where the encoder is not a vision transformer: its stride, so that its map is the frame's.
        still: frames of a still clip, where the encoder is not a vision transformer; 0 = it takes pictures.
        device: where it runs.
        batch: frames at a time.
    """

    encoder: nn.Module
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multiple: int = 32
    still: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch: int = 16
    _resized: dict[tuple[int, int], nn.Module] = field(default_factory=dict, repr=False)

    @torch.no_grad()
    def __call__(self, frames: NDArray[Any]) -> Tensor:
        """``(T, H, W, 3)`` uint8 -> ``(T, h, w, D)`` float32 on the device. Raises ValueError for tokens that are not a map of the frame."""
        height, width = self.resolution(frames.shape[1], frames.shape[2])
        network, still = self._network(height, width)
        mean, std = (torch.tensor(value, device=self.device)[:, None, None] for value in (self.mean, self.std))
        maps = []
        for start in range(0, len(frames), self.batch):
            pixels = torch.from_numpy(frames[start : start + self.batch]).to(self.device).permute(0, 3, 1, 2).float() / 255
            pixels = (F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True) - mean) / std  # [B, 3, H, W]
            tokens = network(pixels[:, :, None].expand(-1, -1, still, -1, -1) if still else pixels)
            maps.append(tokens.flatten(1, -2).float())
        tokens = torch.cat(maps)  # [T, N, D]
        return tokens.view(len(tokens), *self._grid(network, tokens.shape[1], height, width), -1)

    def resolution(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) a frame of this size is brought to."""
        down, across = self.encoder.patch[1:] if isinstance(self.encoder, VisionTransformer) else (self.multiple, self.multiple)
        scale = self.size / min(height, width)
        return max(round(scale * height / down), 1) * down, max(round(scale * width / across), 1) * across

    def _network(self, height: int, width: int) -> tuple[nn.Module, int]:
        if not isinstance(self.encoder, VisionTransformer):
            return self.encoder, self.still
        frames = self.encoder.patch[0]
        if (height, width) not in self._resized:
            self._resized[height, width] = resized(self.encoder, (frames, height, width)).to(self.device)
        return self._resized[height, width], frames

    @staticmethod
    def _grid(network: nn.Module, count: int, height: int, width: int) -> tuple[int, int]:
        if isinstance(network, VisionTransformer):
            return network.grid[1], network.grid[2]
        stride = (height * width / count) ** 0.5
        grid = round(height / stride), round(width / stride)
        if grid[0] * grid[1] != count:
            raise ValueError(f"{count} tokens of a frame of {height} x {width} pixels are no map of it: a dense encoder is needed")
        return grid


def resized(encoder: VisionTransformer, clip: tuple[int, int, int]) -> VisionTransformer:
    """The same network for clips of (frames, height, width), frozen: tables of positions are resampled in space, and the first moments of them
    are kept. Raises ValueError where the clip is not a whole number of patches, or longer than the encoder's."""
    config = replace(encoder.config, clip=clip, position_grid=None, drop_path=0.0)
    if config.grid[0] > encoder.grid[0]:
        raise ValueError(f"expected at most {encoder.clip[0]} frames, got {clip[0]}")
    other = VisionTransformer(config)
    state = encoder.state_dict()
    if encoder.pos_embed is not None and other.pos_embed is not None:
        moments, rows, columns = config.grid[0], *encoder.grid[1:]
        table = resample_table(encoder.pos_embed.table.detach().cpu()[: moments * rows * columns], (moments, rows, columns), config.grid)
        state |= {"pos_embed.table": table} if "pos_embed.table" in state else {}
        other.pos_embed.table.data.copy_(table)
    other.load_state_dict(state)
    return other.eval().requires_grad_(False)
