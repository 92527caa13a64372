"""What masked methods show while they train: features for the monitor, a clip or picture for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor

from suite3d.losses.masked_pixels import patch_statistics
from suite3d.nn.patch_embed import Size, patchify

MONITORED_ROWS = 2048


class Normalised(Protocol):
    """What pictures need to know of a batch: how its pixels were normalised, and its names."""

    @property
    def mean(self) -> Sequence[float]: ...

    @property
    def std(self) -> Sequence[float]: ...

    @property
    def names(self) -> list[str]: ...


def monitored_tokens(tokens: Tensor) -> Tensor:
    """At most 2048 of the ``(B, V, D)`` tokens, evenly spread over the batch, detached: ``(<= 2048, D)``."""
    rows = tokens.detach().flatten(0, 1)
    return rows[:: -(-len(rows) // MONITORED_ROWS)]


def clip_pictures(
    pixels: Tensor, visible: Tensor, decoded: Tensor, predicted: Tensor, patch: Size, batch: Normalised, *, jointly: bool = False
) -> dict[str, Any]:
    """Original, masked and reconstructed first clip: as a strip of frames and, where it has more than one, as an animation.

    The predictions are normalised patches; they are shown with the true patch's mean and deviation, as in the papers. Where a token was
    neither seen nor predicted the reconstruction stays grey.

    Args:
        pixels: ``(3, T, H, W)`` normalised.
        visible, decoded: ``(V,)`` and ``(M,)`` int64.
        predicted: ``(M, K * 3)``: normalised channel by channel, in the order (pixel, channel); or, with ``jointly``, over all values of a
            patch, in the order (channel, pixel).
        patch: frames, height, width of a token.
        batch: gives the normalisation of the pixels and the clip's name.
    """
    from suite3d.report.clip import draw_animation, draw_strip

    patches = rearrange(patchify(pixels.float()[None], patch)[0], "n (c k) -> n c k", c=3)
    masked = torch.zeros_like(patches)
    masked[visible] = patches[visible]
    rebuilt = masked.clone()
    true = patches[decoded]
    center, scale = patch_statistics(true.flatten(1)[:, None] if jointly else true)
    order = "m (c k) -> m c k" if jointly else "m (k c) -> m c k"
    unseen = ~torch.isin(decoded, visible)
    rebuilt[decoded[unseen]] = (rearrange(predicted.float(), order, c=3) * scale + center)[unseen]
    mean, std = (torch.tensor(value, device=pixels.device)[:, None] for value in (batch.mean, batch.std))
    grey = (0.5 - mean) / std
    hidden = torch.ones(len(patches), dtype=torch.bool, device=pixels.device)
    hidden[visible] = False
    masked[hidden] = grey
    hidden[decoded] = False
    rebuilt[hidden] = grey
    rows = [_frames(part * std + mean, pixels.shape[1:], patch) for part in (patches, masked, rebuilt)]
    labels = ("original", "masked", "reconstructed")
    strip = {"reconstruction": draw_strip(rows, labels, title=batch.names[0])}
    return strip if pixels.shape[1] == 1 else strip | {"reconstruction_moving": draw_animation(rows, labels)}


def view_frames(pixels: Tensor, batch: Normalised) -> Any:
    """``(3, T, H, W)`` normalised pixels -> ``(T, H, W, 3)`` uint8 array."""
    mean, std = (torch.tensor(value, device=pixels.device)[:, None, None, None] for value in (batch.mean, batch.std))
    return _as_bytes(rearrange(pixels.float() * std + mean, "c t h w -> t h w c"))


def _frames(patches: Tensor, shape: torch.Size, patch: Size) -> Any:
    """``(N, C, K)`` patches in [0, 1] -> ``(T, H, W, C)`` uint8 array."""
    t, p, q = patch
    frames = rearrange(patches, "(T H W) c (t p q) -> (T t) (H p) (W q) c", H=shape[1] // p, W=shape[2] // q, t=t, p=p, q=q)
    return _as_bytes(frames)


def _as_bytes(frames: Tensor) -> Any:
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
