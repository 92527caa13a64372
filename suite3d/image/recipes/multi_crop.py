"""Multi-crop: a few large views and many small ones of the same picture.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments" (SwAV), NeurIPS 2020, section 3.2. Small views cost
little (a crop of 96 pixels has a fifth of the pixels of one of 224) and ask for the whole from a part.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from suite3d.image.appearance import AppearanceConfig
from suite3d.image.data.source import ViewGroup
from suite3d.image.recipes.base import ImagePretrainRecipe
from suite3d.image.recipes.encoder import ImageEncoderConfig
from suite3d.image.views import ViewConfig


def global_view() -> ViewConfig:
    """DINO's large view: a crop of 40 % to all of the picture, mirrored, recoloured, sometimes grey."""
    return ViewConfig(crop="random_resized", area=(0.4, 1.0), flip=0.5, jitter=0.8, saturation=0.2, gray=0.2)


@dataclass(kw_only=True)
class LocalViewConfig:
    """The small views; they take their colours from the large ones.

    Attributes:
        count: how many; 0 = none.
        size: side of a view, pixels.
        area: share of the picture that a crop covers.
        appearance: blur and solarisation.
    """

    count: int = 6
    size: int = 96
    area: tuple[float, float] = (0.05, 0.4)
    appearance: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.5))

    def __post_init__(self) -> None:
        if self.count < 0 or self.size < 1 or not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"expected a count >= 0, a positive size and an increasing area in (0, 1], got {self.count}, {self.size}, {self.area}")


@dataclass(kw_only=True)
class MultiCropRecipe(ImagePretrainRecipe):
    """Methods on two large and n small views: views 0 and 1 of a batch are large, those from 2 on small.

    The defaults of crops and appearance are DINO's (Caron et al., ICCV 2021); subclasses replace them.

    Attributes:
        augment: crops and colours of the large views.
        first, second: blur and solarisation of the two large views.
        local: the small views.
        encoder: the part that survives. A vision transformer takes both sizes: its table of positions is resampled to the small one.
    """

    augment: ViewConfig = field(default_factory=global_view)
    first: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=1.0))
    second: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.1, solarise=0.2))
    local: LocalViewConfig = field(default_factory=LocalViewConfig)
    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)

    def build_encoder(self) -> nn.Module:
        two_sizes = self.local.count > 0 and self.local.size != self.augment.size
        vit = replace(self.encoder.vit, any_size=self.encoder.vit.any_size or two_sizes)
        return replace(self.encoder, vit=vit).build(self.augment.size)

    def views(self) -> list[ViewGroup]:
        large = [ViewGroup(view=self.augment, appearance=appearance) for appearance in (self.first, self.second)]
        small = replace(self.augment, size=self.local.size, area=self.local.area)
        return large + [ViewGroup(count=self.local.count, view=small, appearance=self.local.appearance)] * (self.local.count > 0)
