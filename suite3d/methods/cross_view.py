"""Cross-view masked modelling: rebuild a nearly empty view from the few patches that are left of it and from another, whole view.

    other = encoder(reference view),  seen = encoder(visible patches of the masked view)          one encoder for both
    L = mean over the hidden patches i and their values of (decoder(seen, other)_i - normalised pixels_i)^2

CropMAE, SiamMAE and CroCo are this with three choices: which two views, how much is hidden, and the order of the decoder's attentions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.masked_pixels import jointly_normalised_patches, token_mse
from suite3d.masking import generators_of, hidden_count, hidden_indices, tube_mask, visible_indices
from suite3d.methods.looking import clip_pictures, monitored_tokens, view_frames
from suite3d.methods.masked_pixels import check_pixel_outputs
from suite3d.nn.decoder import CrossSelfDecoder, SelfCrossDecoder
from suite3d.nn.patch_embed import gather_patches
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output


class CrossView(nn.Module):
    """Masked modelling of one view beside another. Subclasses name the views.

    Args:
        encoder: what is pretrained; both views go through it.
        decoder: with one output for each value of a patch.
        mask_ratio: share of the masked view's patches hidden.

    Attributes:
        masked, reference: numbers of the two views in the batch.

    Raises:
        ValueError: a decoder whose outputs do not fit the encoder's patches; a ratio that hides all or nothing.
    """

    masked: int = 1
    reference: int = 0

    def __init__(self, encoder: VisionTransformer, decoder: SelfCrossDecoder | CrossSelfDecoder, mask_ratio: float) -> None:
        super().__init__()
        hidden_count(2, mask_ratio)
        check_pixel_outputs(encoder, decoder.head.out_features)
        self.encoder, self.decoder, self.mask_ratio = encoder, decoder, mask_ratio

    def forward(self, batch: ImageBatch) -> Output:
        if len(batch.views) < 2:
            raise ValueError(f"{type(self).__name__} expected two views of every sample, got {len(batch.views)}: use its own recipe")
        pixels, other = batch.pixels(self.masked)[:, :, None], batch.pixels(self.reference)[:, :, None]  # [B, 3, 1, S, S] each
        mask = tube_mask(self.encoder.grid, self.mask_ratio, generators_of(batch.view_seeds(self.masked), "mask"), device=batch.device)
        hidden = int(mask[0].sum())
        visible, targets = visible_indices(mask, mask.shape[1] - hidden), hidden_indices(mask, hidden)
        whole = self.encoder.encode(other)  # [B, P, D], [B, N, D]
        tokens = self.encoder(pixels, visible)  # [B, V, D]
        predicted = self.decoder(tokens, visible, targets, torch.cat(whole, dim=1))  # [B, M, 3 * p * q]
        with torch.no_grad():
            wanted = jointly_normalised_patches(gather_patches(pixels, targets, self.encoder.patch))  # [B, M, 3 * p * q]
        pictures = partial(self.pictures, pixels[0], other[0], visible[0], targets[0], predicted[0].detach(), batch)
        return Output(loss=token_mse(predicted, wanted), features=monitored_tokens(whole[1]), visuals=pictures)

    def pictures(self, pixels: Tensor, other: Tensor, visible: Tensor, targets: Tensor, predicted: Tensor, batch: ImageBatch) -> dict[str, Any]:
        """The first sample: the masked view as in MAE, and the view it is read from."""
        from suite3d.report.clip import draw_strip

        rebuilt = clip_pictures(pixels, visible, targets, predicted, self.encoder.patch, batch, jointly=True)
        return rebuilt | {"reference": draw_strip([view_frames(other, batch)], ["reference view"], title=batch.names[0])}
