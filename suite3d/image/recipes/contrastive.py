"""Contrastive recipes on two views of a picture."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from suite3d.image.recipes.base import ImageViewsRecipe
from suite3d.image.views import ViewConfig
from suite3d.methods.moco import MoCo, MoCoConfig
from suite3d.methods.simclr import SimCLR, SimCLRConfig


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
