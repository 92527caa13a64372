"""Recipes of self-distillation: a teacher that follows the student."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from suite3d.image.recipes.encoder import ImageEncoderConfig, ImageViTConfig
from suite3d.image.recipes.multi_crop import MultiCropRecipe
from suite3d.methods.dino import DINO, DINOConfig
from suite3d.methods.ibot import IBOT, IBOTConfig
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
