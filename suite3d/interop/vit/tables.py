"""What the files of other projects do not say: attention heads, LayerNorm's epsilon, pixel normalisation, clip size, licence.

Heads matter most: with another number every shape still fits and the features are wrong. A conversion of VideoMAE's ViT-S that is in
circulation says 16 heads where the network was trained with 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["suite3d", "videomae", "transformers", "mae_st", "vjepa", "dinov2", "timm"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}
VJEPA2_HEADS = HEADS | {1408: 22, 1664: 26}
DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}
EPS = 1e-6
"""Of every network in the table; transformers' VideoMAE configurations say 1e-12, the network was trained with 1e-6."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is known of a source of weights.

    Attributes:
        title: for the reader.
        licence: of the published weights.
        clip: frames, height, width the published weights were trained on.
    """

    title: str
    licence: str
    clip: tuple[int, int, int]


ORIGINS: dict[Source, Origin] = {
    "suite3d": Origin(title="suite3d", licence="as its sources", clip=(16, 224, 224)),
    "videomae": Origin(title="VideoMAE", licence="CC-BY-NC-4.0 (VideoMAE), MIT (VideoMAE V2): see the source", clip=(16, 224, 224)),
    "transformers": Origin(title="transformers", licence="that of the model card", clip=(16, 224, 224)),
    "mae_st": Origin(title="MAE-ST", licence="CC-BY-NC-4.0", clip=(16, 224, 224)),
    "vjepa": Origin(title="V-JEPA", licence="CC-BY-NC-4.0 (V-JEPA), MIT and Apache-2.0 (V-JEPA 2): see the source", clip=(16, 224, 224)),
    "dinov2": Origin(title="DINOv2", licence="Apache-2.0", clip=(1, 518, 518)),
    "timm": Origin(title="timm", licence="that of the model card", clip=(1, 224, 224)),
}


def heads_of(dim: int, *, rope: bool) -> int | None:
    """Attention heads of the published network of that width, None where there is none."""
    return (VJEPA2_HEADS if rope else HEADS).get(dim)
