"""MAE: hide three quarters of a picture, rebuild the hidden pixels from the rest.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022 (figure 1).

    L = mean over the hidden patches i and their values of (decoder(encoder(visible))_i - normalised pixels_i)^2

The seven slots: one crop; uniform random mask; the visible patches are gathered before they are embedded; a plain ViT with fixed sine
positions; a narrow ViT over visible and mask tokens; the target is each patch's pixels with its own mean and deviation taken out; squared error.

Differences to the released code: the decoder's mask tokens stand after the visible ones instead of among them, which attention does not
notice, and it does not see the class token; a patch's values are predicted in the order (channel, pixel).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.masked_pixels import jointly_normalised_patches
from suite3d.masking import generators_of, hidden_count, hidden_indices, tube_mask, visible_indices
from suite3d.methods.looking import clip_pictures, monitored_tokens
from suite3d.methods.masked_pixels import MaskedPixels, Selection
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output


@dataclass(kw_only=True)
class MAEConfig:
    """MAE.

    Attributes:
        mask_ratio: share of the patches hidden. The paper: 0.75.
    """

    mask_ratio: float = 0.75

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)


class MAE(MaskedPixels):
    """MAE around a vision transformer. Other masked image methods replace :meth:`mask`.

    Args:
        encoder: what is pretrained.
        decoder: with one output for each value of a patch.
        config: see :class:`MAEConfig`.

    Raises:
        ValueError: a decoder whose outputs do not fit the encoder's patches.
    """

    def __init__(self, encoder: VisionTransformer, decoder: SelfDecoder | CrossDecoder, config: MAEConfig | None = None) -> None:
        super().__init__(encoder, decoder)
        self.config = config or MAEConfig()

    def forward(self, batch: ImageBatch) -> Output:
        pixels = batch.pixels()[:, :, None]  # [B, 3, 1, S, S]
        mask = self.mask(batch.view_seeds(), batch.device)
        hidden = int(mask[0].sum())
        chosen = Selection(visible=visible_indices(mask, mask.shape[1] - hidden), decoded=hidden_indices(mask, hidden))
        loss, tokens, predicted = self.predict(pixels, chosen, jointly_normalised_patches)
        shown = (pixels[0], chosen.visible[0], chosen.decoded[0], predicted[0].detach(), self.encoder.patch, batch)
        return Output(loss=loss, features=monitored_tokens(tokens), visuals=partial(clip_pictures, *shown, jointly=True))

    def mask(self, seeds: list[int], device: torch.device) -> Tensor:
        """``(B, N)`` bool, True = hidden, equally many in each row."""
        return tube_mask(self.encoder.grid, self.config.mask_ratio, generators_of(seeds, "mask"), device=device)
