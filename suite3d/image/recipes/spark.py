"""Masked modelling recipes around convolutional encoders."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from suite3d.engine.norms import synchronise_norms
from suite3d.image.recipes.base import ImagePretrainRecipe
from suite3d.image.recipes.encoder import ImageEncoderConfig
from suite3d.image.views import ViewConfig
from suite3d.methods.spark import SparK, SparKConfig


@dataclass(kw_only=True)
class SparKRecipe(ImagePretrainRecipe):
    """Sparse hierarchical masked modelling.

    Attributes:
        encoder: the convolutional network that survives.
    """

    augment: ViewConfig = field(default_factory=lambda: ViewConfig(crop="random_resized", area=(0.67, 1.0), flip=0.5))
    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    method: SparKConfig = field(default_factory=SparKConfig)

    def build_encoder(self) -> nn.Module:
        return self.encoder.build(self.augment.size)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return synchronise_norms(SparK(encoder, self.method), self.train.device)
