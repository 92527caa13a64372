"""One vector a sample out of an encoder's tokens."""

from __future__ import annotations

from torch import Tensor, nn

from suite3d.nn.vit import VisionTransformer


def pooled_features(encoder: nn.Module, x: Tensor) -> Tensor:
    """``(B, D)``: the class token where the encoder has one, else the mean over all places of its output ``(B, ..., D)``."""
    return features_and_tokens(encoder, x)[0]


def features_and_tokens(encoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`pooled_features` and all places they come from, ``(B, D)`` and ``(B, N, D)``, in one pass."""
    if isinstance(encoder, VisionTransformer) and encoder.cls_token is not None:
        prefix, tokens = encoder.encode(x)
        return prefix[:, 0], tokens
    places: Tensor = encoder(x)
    return places.flatten(1, -2).mean(dim=1), places.flatten(1, -2)
