"""CroCo: rebuild a picture of a scene from a tenth of its patches and from another view of the scene, which is seen whole.

Weinzaepfel et al., "CroCo: Self-Supervised Pre-training for 3D Vision Tasks by Cross-View Completion", NeurIPS 2022 (figure 2, equation 1).

The objective is that of :mod:`suite3d.methods.cross_view`. The seven slots: two views of a static scene, recoloured independently; 90 % of the
first hidden uniformly at random, nothing of the second; the visible patches are gathered before they are embedded; one plain ViT for both, without
a class token; blocks of self-attention, cross-attention to the second view and feed-forward part; normalised pixels; squared error.

The hidden tenth cannot be guessed from the visible one; it can be read off the other view by who knows how the two relate in space.

Differences to the paper: its pairs are rendered indoor scenes (Habitat) and, for CroCo v2, real pairs with rotary positions; here they are whatever
two pictures of a scene the set has (``ImageSet.pairs``). That the colours (strength 0.4) of every view are changed, and the hue by up to 0.1, are
choices made here. The bridge from encoder to decoder has no bias.
"""

from __future__ import annotations

from dataclasses import dataclass

from suite3d.masking import hidden_count
from suite3d.methods.cross_view import CrossView
from suite3d.nn.decoder import SelfCrossDecoder
from suite3d.nn.vit import VisionTransformer


@dataclass(kw_only=True)
class CroCoConfig:
    """CroCo.

    Attributes:
        mask_ratio: share of the first view's patches hidden. The paper: 0.9.
    """

    mask_ratio: float = 0.9

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)


class CroCo(CrossView):
    """CroCo around a vision transformer; view 0 is masked, view 1 is the other view of the scene.

    Args:
        encoder: what is pretrained.
        decoder: with one output for each value of a patch.
        config: see :class:`CroCoConfig`.
    """

    masked, reference = 0, 1

    def __init__(self, encoder: VisionTransformer, decoder: SelfCrossDecoder, config: CroCoConfig | None = None) -> None:
        config = config or CroCoConfig()
        super().__init__(encoder, decoder, config.mask_ratio)
        self.config = config
