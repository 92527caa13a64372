"""Recipes that compare the places of two views of a picture, or follow a gaze from view to view."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from suite3d.image.appearance import AppearanceConfig
from suite3d.image.data.source import ViewGroup
from suite3d.image.recipes.base import ImagePretrainRecipe, ImageViewsRecipe, contrast_view
from suite3d.image.recipes.encoder import ImageEncoderConfig
from suite3d.image.views import ViewConfig
from suite3d.methods.pixpro import PixPro, PixProConfig
from suite3d.methods.seq_jepa import SeqJEPA, SeqJEPAConfig
from suite3d.methods.slotcon import SlotCon, SlotConConfig


def byol_view() -> ViewConfig:
    """BYOL's view, which the dense methods share: SimCLR's crop with gentler colours."""
    return ViewConfig(crop="random_resized", area=(0.08, 1.0), flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2)


@dataclass(kw_only=True)
class DenseRecipe(ImageViewsRecipe):
    """Two views with BYOL's augmentation: blur of every first view, one second view in ten blurred and one in five solarised."""

    augment: ViewConfig = field(default_factory=byol_view)
    first: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=1.0))
    second: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.1, solarise=0.2))


@dataclass(kw_only=True)
class PixProRecipe(DenseRecipe):
    """Consistency of places, or contrast between them."""

    method: PixProConfig = field(default_factory=PixProConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return PixPro(encoder, self.method)


@dataclass(kw_only=True)
class SlotConRecipe(DenseRecipe):
    """Semantic groups of places, contrasted as objects."""

    method: SlotConConfig = field(default_factory=SlotConConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return SlotCon(encoder, self.method)


@dataclass(kw_only=True)
class SeqJEPARecipe(ImagePretrainRecipe):
    """A sequence of looks and the moves between them; neither blur nor solarisation, which the moves do not tell.

    Attributes:
        encoder: the part that survives; the paper has a ResNet-18.
    """

    augment: ViewConfig = field(default_factory=contrast_view)
    encoder: ImageEncoderConfig = field(default_factory=lambda: ImageEncoderConfig(depth=18))
    method: SeqJEPAConfig = field(default_factory=SeqJEPAConfig)

    def build_encoder(self) -> nn.Module:
        return self.encoder.build(self.augment.size)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return SeqJEPA(encoder, self.method)

    def views(self) -> list[ViewGroup]:
        return [ViewGroup(count=self.method.views + 1, view=self.augment)]
