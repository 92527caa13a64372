"""CropMAE: rebuild a crop from two or three of its patches and from the larger crop that it was cut out of.

Eymael et al., "Efficient Image Pre-Training with Siamese Cropped Masked Autoencoders", ECCV 2024 (figure 2).

The objective is that of :mod:`suite3d.methods.cross_view`. The seven slots: a global crop, and a local one inside it (``ViewGroup.inside``),
mirrored each for itself; 98.5 % of the local crop hidden uniformly at random; the visible patches are gathered before they are embedded; one
plain ViT for both; blocks of cross-attention to the global crop, feed-forward part, self-attention; normalised pixels; squared error.

To place the local crop in the global one the encoder must know what a thing looks like whatever its size, place and mirror image: no video needed.

Differences to the released code: the local crop is cut out of the picture and resized once, not out of the resized global crop; no class token
stands among the decoder's queries (the global crop's is among the keys); no dropout in the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from suite3d.masking import hidden_count
from suite3d.methods.cross_view import CrossView
from suite3d.nn.decoder import CrossSelfDecoder
from suite3d.nn.vit import VisionTransformer


@dataclass(kw_only=True)
class CropMAEConfig:
    """CropMAE.

    Attributes:
        mask_ratio: share of the local crop's patches hidden. The paper: 0.985, which leaves 3 of 196.
    """

    mask_ratio: float = 0.985

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)


class CropMAE(CrossView):
    """CropMAE around a vision transformer; view 0 is the global crop, view 1 the local one.

    Args:
        encoder: what is pretrained.
        decoder: with one output for each value of a patch.
        config: see :class:`CropMAEConfig`.
    """

    masked, reference = 1, 0

    def __init__(self, encoder: VisionTransformer, decoder: CrossSelfDecoder, config: CropMAEConfig | None = None) -> None:
        config = config or CropMAEConfig()
        super().__init__(encoder, decoder, config.mask_ratio)
        self.config = config
