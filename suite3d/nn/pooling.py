"""One vector a sample out of an encoder's tokens."""

from __future__ import annotations

from torch import Tensor, nn

from suite3d.nn.vit import VisionTransformer


def pooled_features(encoder: nn.Module, x: Tensor) -> Tensor:
    """``(B, D)``: the class token where the encoder has one, else the mean over all places of its output ``(B, ..., D)``."""
    if isinstance(encoder, VisionTransformer) and encoder.cls_token is not None:
        return encoder.encode(x)[0][:, 0]
    tokens: Tensor = encoder(x)
    return tokens.flatten(1, -2).mean(dim=1)
