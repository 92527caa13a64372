"""What masked autoencoders of pictures and clips have in common: encode the visible patches, decode hidden ones, compare pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.losses.masked_pixels import token_mse
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.patch_embed import gather_patches
from suite3d.nn.vit import VisionTransformer


@dataclass(kw_only=True)
class Selection:
    """Which tokens a step uses.

    Attributes:
        visible: ``(B, V)`` int64 tokens the encoder sees.
        decoded: ``(B, M)`` int64 tokens that are predicted.
        weight: ``(B, M)`` float weight of each in the loss; None = 1.
    """

    visible: Tensor
    decoded: Tensor
    weight: Tensor | None = None


class MaskedPixels(nn.Module):
    """A vision transformer and a decoder of the pixels it did not see.

    Args:
        encoder: what is pretrained; its input size and patch decide the token grid.
        decoder: with one output for each value of a patch.

    Raises:
        ValueError: a decoder whose outputs do not fit the encoder's patches.
    """

    def __init__(self, encoder: VisionTransformer, decoder: SelfDecoder | CrossDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        check_pixel_outputs(encoder, decoder.head.out_features)

    def predict(self, pixels: Tensor, chosen: Selection, normalise: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, the encoder's tokens ``(B, V, D)`` and the predictions ``(B, M, K)``, for normalised ``pixels (B, C, T, H, W)``.

        ``normalise`` makes the targets of the patches ``(B, M, C * t * p * q)``.
        """
        tokens = self.encoder(pixels, chosen.visible)  # [B, V, D]
        predicted = self.decoder(tokens, chosen.visible, chosen.decoded)  # [B, M, K]
        with torch.no_grad():
            target = normalise(gather_patches(pixels, chosen.decoded, self.encoder.patch))  # [B, M, K]
        return token_mse(predicted, target, weight=chosen.weight), tokens, predicted


def patch_values(encoder: VisionTransformer) -> int:
    """How many values a patch has."""
    return encoder.config.channels * encoder.patch[0] * encoder.patch[1] * encoder.patch[2]


def check_pixel_outputs(encoder: VisionTransformer, outputs: int, *, each: int = 1) -> None:
    """Raise ValueError unless a decoder predicts ``each`` numbers for every value of a patch."""
    values = each * patch_values(encoder)
    if outputs != values:
        raise ValueError(f"the decoder must predict the {values} values of a patch {encoder.patch}, it predicts {outputs}")
