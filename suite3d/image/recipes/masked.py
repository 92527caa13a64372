"""Masked image modelling recipes."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from suite3d.image.recipes.base import ImageViTRecipe
from suite3d.image.recipes.encoder import ImageDecoderConfig
from suite3d.methods.colormae import ColorMAE, ColorMAEConfig
from suite3d.methods.gmml import GMML, GMMLConfig
from suite3d.methods.mae import MAE, MAEConfig
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
