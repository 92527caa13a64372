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
    if isinstance(encoder, PoolsItself):
        return encoder.pooled(x)
    if isinstance(encoder, VisionTransformer) and encoder.cls_token is not None:
        return encoder.encode(x)[0][:, 0]
    tokens: Tensor = encoder(x)
    return tokens.flatten(1, -2).mean(dim=1)
