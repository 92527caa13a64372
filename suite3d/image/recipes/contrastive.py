"""Contrastive recipes on two views of a picture."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from suite3d.image.recipes.base import ImageViewsRecipe
from suite3d.methods.simclr import SimCLR, SimCLRConfig


@dataclass(kw_only=True)
class SimCLRRecipe(ImageViewsRecipe):
    """Contrast of two views."""

    method: SimCLRConfig = field(default_factory=SimCLRConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return SimCLR(encoder, self.method)
