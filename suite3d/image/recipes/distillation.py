"""Recipes of self-distillation: a teacher that follows the student."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from suite3d.image.appearance import AppearanceConfig
from suite3d.image.data.source import ViewGroup
from suite3d.image.recipes.base import ImagePretrainRecipe, contrast_view
from suite3d.image.recipes.encoder import ImageEncoderConfig, ImageViTConfig
from suite3d.image.recipes.multi_crop import LocalViewConfig, MultiCropRecipe, global_view
from suite3d.image.views import ViewConfig
from suite3d.methods.dino import DINO, DINOConfig
from suite3d.methods.ibot import IBOT, IBOTConfig
from suite3d.methods.mugs import Mugs, MugsConfig
from suite3d.methods.obow import OBoW, OBoWConfig
from suite3d.nn.vit import VisionTransformer


def small_vit() -> ImageEncoderConfig:
    """DINO's ViT-S/16: learned positions, a tenth of the residual branches of the last block skipped."""
    return ImageEncoderConfig(kind="vit", vit=ImageViTConfig(size="S", positions="learned", drop_path=0.1))


@dataclass(kw_only=True)
class DINORecipe(MultiCropRecipe):
    """Self-distillation between views."""

    encoder: ImageEncoderConfig = field(default_factory=small_vit)
    method: DINOConfig = field(default_factory=DINOConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return DINO(encoder, self.method)


@dataclass(kw_only=True)
class IBOTRecipe(MultiCropRecipe):
    """Self-distillation between views and of hidden patches."""

    encoder: ImageEncoderConfig = field(default_factory=small_vit)
    method: IBOTConfig = field(default_factory=IBOTConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        if not isinstance(encoder, VisionTransformer):
            raise ValueError("iBOT hides patches of a vision transformer: expected encoder.kind=vit")
        return IBOT(encoder, self.method)


@dataclass(kw_only=True)
class MugsRecipe(MultiCropRecipe):
    """Pictures, local groups and clusters."""

    augment: ViewConfig = field(default_factory=lambda: replace(global_view(), area=(0.25, 1.0)))
    local: LocalViewConfig = field(default_factory=lambda: LocalViewConfig(count=10, area=(0.05, 0.25)))
    encoder: ImageEncoderConfig = field(default_factory=small_vit)
    method: MugsConfig = field(default_factory=MugsConfig)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        if not isinstance(encoder, VisionTransformer):
            raise ValueError("Mugs averages the patch tokens of a vision transformer: expected encoder.kind=vit")
        return Mugs(encoder, self.method)


@dataclass(kw_only=True)
class OBoWRecipe(ImagePretrainRecipe):
    """Bags of visual words: view 0 is the teacher's plain picture, all others are the student's crops.

    Attributes:
        augment: the teacher's picture, and its size.
        colors: colours and mirroring of the student's crops.
        large, local: the student's crops of two sizes.
        encoder: the part that survives.
    """

    augment: ViewConfig = field(default_factory=lambda: ViewConfig(crop="center", flip=0.5))
    colors: ViewConfig = field(default_factory=contrast_view)
    large: LocalViewConfig = field(default_factory=lambda: LocalViewConfig(count=2, size=160, area=(0.08, 0.6)))
    local: LocalViewConfig = field(default_factory=lambda: LocalViewConfig(count=5, size=96, area=(0.085, 0.14), appearance=AppearanceConfig()))
    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    method: OBoWConfig = field(default_factory=OBoWConfig)

    def build_encoder(self) -> nn.Module:
        return replace(self.encoder, vit=replace(self.encoder.vit, any_size=True)).build(self.augment.size)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return OBoW(encoder, self.method)

    def views(self) -> list[ViewGroup]:
        groups = [ViewGroup(view=self.augment)]
        for crops in (self.large, self.local):
            view = replace(self.colors, size=crops.size, area=crops.area, mean=self.augment.mean, std=self.augment.std)
            groups += [ViewGroup(count=crops.count, view=view, appearance=crops.appearance)] * (crops.count > 0)
        return groups
