"""One vector a sample out of an encoder's tokens."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from suite3d.nn.vit import VisionTransformer


@runtime_checkable
class PoolsItself(Protocol):
    """An encoder that knows how to make one vector ``(B, D)`` of each of its samples."""

    def pooled(self, x: Any) -> Tensor: ...


def pooled_features(encoder: nn.Module, x: Any) -> Tensor:
    """``(B, D)``: what the encoder's own ``pooled`` says, the class token of a vision transformer that has one, else the mean over all places
    of its output ``(B, ..., D)``.

    ``x``: what the encoder reads: pixels ``(B, ...)``, or a batch of clouds.
    """
    return encoder.pooled(x) if isinstance(encoder, PoolsItself) else features_and_tokens(encoder, x)[0]


def features_and_tokens(encoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`pooled_features` of pixels and all places they come from, ``(B, D)`` and ``(B, N, D)``, in one pass."""
    if isinstance(encoder, VisionTransformer) and encoder.cls_token is not None:
        prefix, tokens = encoder.encode(x)
        return prefix[:, 0], tokens
    places: Tensor = encoder(x)
    return places.flatten(1, -2).mean(dim=1), places.flatten(1, -2)
