"""Masked image modelling recipes."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from suite3d.image.appearance import AppearanceConfig
from suite3d.image.data.source import ViewGroup
from suite3d.image.recipes.base import ImageViTRecipe
from suite3d.image.recipes.encoder import ImageDecoderConfig
from suite3d.image.views import ViewConfig
from suite3d.methods.colormae import ColorMAE, ColorMAEConfig
from suite3d.methods.dmjd import DMJD, DMJDConfig
from suite3d.methods.gmml import GMML, GMMLConfig
from suite3d.methods.mae import MAE, MAEConfig
from suite3d.methods.mixed_ae import MixedAE, MixedAEConfig
from suite3d.methods.sit import SiT, SiTConfig
from suite3d.nn.vit import VisionTransformer


@dataclass(kw_only=True)
class MAERecipe(ImageViTRecipe):
    """Masked autoencoding."""

    method: MAEConfig = field(default_factory=MAEConfig)
    decoder: ImageDecoderConfig = field(default_factory=ImageDecoderConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return MAE(encoder, self.decoder.build(encoder), self.method)


@dataclass(kw_only=True)
class ColorMAERecipe(ImageViTRecipe):
    """Masked autoencoding with masks out of coloured noise."""

    method: ColorMAEConfig = field(default_factory=ColorMAEConfig)
    decoder: ImageDecoderConfig = field(default_factory=ImageDecoderConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return ColorMAE(encoder, self.decoder.build(encoder), self.method)


@dataclass(kw_only=True)
class GMMLRecipe(ImageViTRecipe):
    """Repair of pictures with groups of patches overwritten."""

    method: GMMLConfig = field(default_factory=GMMLConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return GMML(encoder, self.method)


def sit_view() -> ViewConfig:
    """SiT's view: a crop of a fifth to all of the picture, mirrored, recoloured, sometimes grey."""
    return ViewConfig(crop="random_resized", area=(0.2, 1.0), flip=0.5, jitter=0.8, saturation=0.2, gray=0.2)


@dataclass(kw_only=True)
class SiTRecipe(ImageViTRecipe):
    """Repair of corrupted pictures and contrast of two views.

    Attributes:
        first, second: blur and solarisation of the two views.
    """

    augment: ViewConfig = field(default_factory=sit_view)
    method: SiTConfig = field(default_factory=SiTConfig)
    first: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=1.0))
    second: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.1, solarise=0.2))

    def views(self) -> list[ViewGroup]:
        return [ViewGroup(view=self.augment, appearance=appearance) for appearance in (self.first, self.second)]

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return SiT(encoder, self.method)


@dataclass(kw_only=True)
class DMJDRecipe(ImageViTRecipe):
    """Histograms of disjoint masked views."""

    method: DMJDConfig = field(default_factory=DMJDConfig)
    decoder: ImageDecoderConfig = field(default_factory=ImageDecoderConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return DMJD(encoder, self.decoder.build(encoder, outputs=self.method.outputs(encoder)), self.method)


@dataclass(kw_only=True)
class MixedAERecipe(ImageViTRecipe):
    """Masked autoencoding of mixed pictures."""

    method: MixedAEConfig = field(default_factory=MixedAEConfig)
    decoder: ImageDecoderConfig = field(default_factory=ImageDecoderConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return MixedAE(encoder, self.decoder.build(encoder), self.method)
