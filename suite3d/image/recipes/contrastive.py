"""Joint-embedding recipes: contrast, redundancy reduction, clustering, and the two on a single view that belong to no other group."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from suite3d.image.appearance import AppearanceConfig
from suite3d.image.recipes.base import ImagePretrainRecipe, ImageViewsRecipe, contrast_view
from suite3d.image.recipes.encoder import ImageEncoderConfig
from suite3d.image.recipes.multi_crop import LocalViewConfig, MultiCropRecipe
from suite3d.image.views import ViewConfig
from suite3d.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from suite3d.methods.cmim import CMIM, CMIMConfig
from suite3d.methods.lejepa import LeJEPA, LeJEPAConfig
from suite3d.methods.moco import MoCo, MoCoConfig
from suite3d.methods.rotnet import RotNet
from suite3d.methods.simclr import SimCLR, SimCLRConfig
from suite3d.methods.swav import SwAV, SwAVConfig


@dataclass(kw_only=True)
class SimCLRRecipe(ImageViewsRecipe):
    """Contrast of two views."""

    method: SimCLRConfig = field(default_factory=SimCLRConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return SimCLR(encoder, self.method)


def moco_view() -> ViewConfig:
    """MoCo v2's view: a crop of a fifth to all of the picture, mirrored, recoloured, sometimes grey."""
    return ViewConfig(crop="random_resized", area=(0.2, 1.0), flip=0.5, jitter=0.8, gray=0.2)


@dataclass(kw_only=True)
class MoCoRecipe(ImageViewsRecipe):
    """Contrast with a queue of keys."""

    augment: ViewConfig = field(default_factory=moco_view)
    method: MoCoConfig = field(default_factory=MoCoConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return MoCo(encoder, self.method)


def byol_view() -> ViewConfig:
    """BYOL's and Barlow Twins' view: a crop of 8 % to all of the picture, mirrored, recoloured, sometimes grey."""
    return ViewConfig(crop="random_resized", area=(0.08, 1.0), flip=0.5, jitter=0.8, saturation=0.2, gray=0.2)


@dataclass(kw_only=True)
class BarlowTwinsRecipe(ImageViewsRecipe):
    """Redundancy reduction."""

    augment: ViewConfig = field(default_factory=byol_view)
    first: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=1.0))
    second: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.1, solarise=0.2))
    method: BarlowTwinsConfig = field(default_factory=BarlowTwinsConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return BarlowTwins(encoder, self.method)


def swav_view() -> ViewConfig:
    """SwAV's large view: a crop of 14 % to all of the picture, SimCLR's colours."""
    return replace(contrast_view(), area=(0.14, 1.0))


@dataclass(kw_only=True)
class SwAVRecipe(MultiCropRecipe):
    """Swapped prediction of balanced assignments."""

    augment: ViewConfig = field(default_factory=swav_view)
    first: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.5))
    second: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.5))
    local: LocalViewConfig = field(default_factory=lambda: LocalViewConfig(area=(0.05, 0.14)))
    method: SwAVConfig = field(default_factory=SwAVConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return SwAV(encoder, self.method)


def lejepa_view() -> ViewConfig:
    """LeJEPA's large view: a crop of 30 % to all of the picture, mirrored, recoloured, sometimes grey."""
    return ViewConfig(crop="random_resized", area=(0.3, 1.0), flip=0.5, jitter=0.8, gray=0.2)


@dataclass(kw_only=True)
class LeJEPARecipe(MultiCropRecipe):
    """Prediction of the large views' mean by Gaussian embeddings."""

    augment: ViewConfig = field(default_factory=lejepa_view)
    local: LocalViewConfig = field(default_factory=lambda: LocalViewConfig(area=(0.05, 0.3)))
    method: LeJEPAConfig = field(default_factory=LeJEPAConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return LeJEPA(encoder, self.method)


@dataclass(kw_only=True)
class OneViewRecipe(ImagePretrainRecipe):
    """Methods on one view of a picture, around any encoder.

    Attributes:
        encoder: the part that survives.
    """

    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)

    def build_encoder(self) -> nn.Module:
        return self.encoder.build(self.augment.size)


@dataclass(kw_only=True)
class RotNetRecipe(OneViewRecipe):
    """Prediction of quarter turns."""

    augment: ViewConfig = field(default_factory=lambda: ViewConfig(crop="random_resized", area=(0.3, 1.0), flip=0.5))

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return RotNet(encoder)


@dataclass(kw_only=True)
class CMIMRecipe(OneViewRecipe):
    """A contrastive auto-encoder; its view is plain."""

    augment: ViewConfig = field(default_factory=lambda: ViewConfig(crop="center"))
    method: CMIMConfig = field(default_factory=CMIMConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return CMIM(encoder, self.augment.size, self.method)
