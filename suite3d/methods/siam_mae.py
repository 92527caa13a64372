"""SiamMAE: rebuild a later picture of a scene from a twentieth of its patches and from an earlier picture, which is seen whole.

Gupta et al., "Siamese Masked Autoencoders", NeurIPS 2023 (figure 1).

The objective is that of :mod:`suite3d.methods.cross_view`. The seven slots: two pictures of a scene; 95 % of the second hidden uniformly at
random, nothing of the first; the visible patches are gathered before they are embedded; one plain ViT for both; blocks of cross-attention to the
first picture, feed-forward part, self-attention; normalised pixels; squared error.

What is left to do is to say what moved where: correspondence is learned without a label.

Differences to the paper: its two pictures are frames of a video, 4 to 48 frames apart; here they are whatever two pictures of a scene the set has
(``ImageSet.pairs``; the fractals have two cameras on one fractal), in no order of time, each cropped for itself and never mirrored. No class token
stands among the decoder's queries (the first picture's is among the keys).

The order of the parts of a decoder block and its norms after the sums are those of the code that reproduced it with CropMAE; the paper only says
that cross-attention comes before self-attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from suite3d.masking import hidden_count
from suite3d.methods.cross_view import CrossView
from suite3d.nn.decoder import CrossSelfDecoder
from suite3d.nn.vit import VisionTransformer


@dataclass(kw_only=True)
class SiamMAEConfig:
    """SiamMAE.

    Attributes:
        mask_ratio: share of the second picture's patches hidden. The paper: 0.95.
    """

    mask_ratio: float = 0.95

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)


class SiamMAE(CrossView):
    """SiamMAE around a vision transformer; view 0 shows the first picture, view 1 the second one.

    Args:
        encoder: what is pretrained.
        decoder: with one output for each value of a patch.
        config: see :class:`SiamMAEConfig`.
    """

    masked, reference = 1, 0

    def __init__(self, encoder: VisionTransformer, decoder: CrossSelfDecoder, config: SiamMAEConfig | None = None) -> None:
        config = config or SiamMAEConfig()
        super().__init__(encoder, decoder, config.mask_ratio)
        self.config = config
