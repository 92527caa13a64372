"""Cut a clip into patches and embed them; hidden patches are never touched."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Size = tuple[int, int, int]


def as_size(values: Sequence[int], name: str = "size") -> Size:
    """Three whole numbers (t, h, w) as a tuple, whatever sequence a configuration held. Raises ValueError for another number of them."""
    if len(values) != 3:
        raise ValueError(f"{name} expected three numbers (frames, height, width), got {list(values)}")
    return int(values[0]), int(values[1]), int(values[2])


def patch_grid(clip: Size, patch: Size) -> Size:
    """Patches along (t, h, w). Raises ValueError where the clip is not a whole number of patches."""
    for name, size, step in zip(("frames", "height", "width"), clip, patch, strict=True):
        if step < 1 or size < step or size % step:
            raise ValueError(f"a clip of {name}={size} is not a whole number of patches of {step}: change the clip {clip} or the patch {patch}")
    return clip[0] // patch[0], clip[1] // patch[1], clip[2] // patch[2]


def patchify(x: Tensor, patch: Size) -> Tensor:
    """``(B, C, T, H, W)`` -> ``(B, N, C * t * p * q)``, the values of a patch in the order (c, t, h, w) of a convolution's weight."""
    t, p, q = patch
    patch_grid((x.shape[2], x.shape[3], x.shape[4]), patch)
    return rearrange(x, "b c (T t) (H p) (W q) -> b (T H W) (c t p q)", t=t, p=p, q=q)


def gather_patches(x: Tensor, index: Tensor, patch: Size) -> Tensor:
    """Patches ``index (B, V)`` of ``x (B, C, T, H, W)`` -> ``(B, V, C * t * p * q)``: ``patchify(x)[b, index[b]]`` that reads nothing else."""
    t, p, q = patch
    _, height, width = patch_grid((x.shape[2], x.shape[3], x.shape[4]), patch)
    cells = x.unflatten(4, (width, q)).unflatten(3, (height, p)).unflatten(2, (-1, t))  # (B, C, T', t, H', p, W', q)
    frame, row, column = index // (height * width), index // width % height, index % width
    batch = torch.arange(x.shape[0], device=x.device)[:, None]
    return cells[batch, :, frame, :, row, :, column].flatten(2)  # (B, V, C, t, p, q) -> (B, V, C * t * p * q)


class PatchEmbed(nn.Module):
    """One linear map from the pixels of a patch to a token, its weight stored as that of a convolution.

    Args:
        channels: channels of the clip.
        dim: channels of a token.
        patch: frames, rows and columns of a patch.
    """

    def __init__(self, channels: int, dim: int, patch: Size) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(channels, dim, patch, stride=patch)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """torch's default of a convolution: uniform within 1 / sqrt(values in a patch)."""
        bound = 1 / math.sqrt(self.proj.weight[0].numel())
        nn.init.uniform_(self.proj.weight, -bound, bound, generator=generator)
        assert self.proj.bias is not None
        nn.init.uniform_(self.proj.bias, -bound, bound, generator=generator)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """``(B, C, T, H, W)`` -> ``(B, N, dim)``, or of the patches ``visible (B, V)`` only -> ``(B, V, dim)``."""
        pixels = patchify(x, self.patch) if visible is None else gather_patches(x, visible, self.patch)
        return F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias)
