"""What masked video methods show while they train: features for the monitor, a clip for a person."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from suite3d.losses.masked_pixels import patch_statistics
from suite3d.nn.patch_embed import Size, patchify
from suite3d.video.data.batch import ClipBatch

MONITORED_ROWS = 2048


def monitored_tokens(tokens: Tensor) -> Tensor:
    """At most 2048 of the ``(B, V, D)`` tokens, evenly spread over the batch, detached: ``(<= 2048, D)``."""
    rows = tokens.detach().flatten(0, 1)
    return rows[:: -(-len(rows) // MONITORED_ROWS)]


def clip_pictures(pixels: Tensor, visible: Tensor, decoded: Tensor, predicted: Tensor, patch: Size, batch: ClipBatch) -> dict[str, Any]:
    """Original, masked and reconstructed first clip: as a strip of frames and as an animation.

    The predictions are normalised tubes; they are shown with the true tube's mean and deviation, as in the paper. Where a token was neither
    seen nor predicted the reconstruction stays grey.

    Args:
        pixels: ``(3, T, H, W)`` normalised.
        visible, decoded: ``(V,)`` and ``(M,)`` int64.
        predicted: ``(M, K * 3)`` in the order (pixel, channel).
        patch: frames, height, width of a token.
        batch: gives the normalisation of the pixels and the clip's name.
    """
    from suite3d.report.clip import draw_animation, draw_strip

    mean, std = (torch.tensor(value, device=pixels.device)[:, None, None, None] for value in (batch.mean, batch.std))
    shown = (pixels.float() * std + mean)[None]  # [1, 3, T, H, W] in [0, 1]
    patches = rearrange(patchify(shown, patch)[0], "n (c k) -> n c k", c=3)
    grey = torch.full_like(patches, 0.5)
    masked = grey.clone()
    masked[visible] = patches[visible]
    rebuilt = masked.clone()
    center, scale = patch_statistics(patches[decoded])
    unseen = ~torch.isin(decoded, visible)
    rebuilt[decoded[unseen]] = (rearrange(predicted.float(), "m (k c) -> m c k", c=3) * scale + center)[unseen]
    rows = [_frames(part, pixels.shape[1:], patch) for part in (patches, masked, rebuilt)]
    labels = ("original", "masked", "reconstructed")
    return {"reconstruction": draw_strip(rows, labels, title=batch.names[0]), "reconstruction_moving": draw_animation(rows, labels)}


def _frames(patches: Tensor, shape: torch.Size, patch: Size) -> Any:
    """``(N, C, K)`` patches in [0, 1] -> ``(T, H, W, C)`` uint8 array."""
    t, p, q = patch
    frames = rearrange(patches, "(T H W) c (t p q) -> (T t) (H p) (W q) c", H=shape[1] // p, W=shape[2] // q, t=t, p=p, q=q)
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
