"""Masked modelling across views, and its relatives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import nn

from suite3d.config import ConfigError
from suite3d.image.data.source import ViewGroup
from suite3d.image.recipes.base import ImageViTRecipe
from suite3d.image.views import ViewConfig
from suite3d.methods.crop_mae import CropMAE, CropMAEConfig
from suite3d.nn.decoder import CrossSelfDecoder, SelfCrossDecoder
from suite3d.nn.positions import Positions
from suite3d.nn.vit import VisionTransformer

Decoder = TypeVar("Decoder", CrossSelfDecoder, SelfCrossDecoder)


@dataclass(kw_only=True)
class ViewDecoderConfig:
    """A decoder that reads another view; the defaults are SiamMAE's and CropMAE's for ViT-S.

    Attributes:
        dim, depth, heads: channels, blocks, attention heads.
    """

    dim: int = 256
    depth: int = 4
    heads: int = 8

    def cross_self(self, encoder: VisionTransformer) -> CrossSelfDecoder:
        """SiamMAE's decoder, with one output for each value of a patch. Raises ConfigError for sizes that do not fit."""
        return self._build(CrossSelfDecoder, encoder)

    def self_cross(self, encoder: VisionTransformer) -> SelfCrossDecoder:
        """CroCo's decoder, likewise."""
        return self._build(SelfCrossDecoder, encoder)

    def _build(self, kind: type[Decoder], encoder: VisionTransformer) -> Decoder:
        t, p, q = encoder.patch
        try:
            positions = Positions("sincos_2d", encoder.grid, self.dim)
            return kind(encoder.embed_dim, self.dim, self.depth, self.heads, encoder.config.channels * t * p * q, positions)
        except ValueError as error:
            raise ConfigError(f"decoder: {error}") from error


@dataclass(kw_only=True)
class CropMAERecipe(ImageViTRecipe):
    """A crop out of a crop.

    Attributes:
        augment: the global crop. The paper: a tenth to all of the picture, mirrored half of the time.
        local_area: range of the local crop's area over the global one's.
    """

    augment: ViewConfig = field(default_factory=lambda: ViewConfig(crop="random_resized", area=(0.1, 1.0), flip=0.5))
    local_area: tuple[float, float] = (0.3, 0.6)
    method: CropMAEConfig = field(default_factory=CropMAEConfig)
    decoder: ViewDecoderConfig = field(default_factory=ViewDecoderConfig)
    base_lr: float = 1.0e-4

    def views(self) -> list[ViewGroup]:
        return [ViewGroup(view=self.augment), ViewGroup(view=replace(self.augment, area=self.local_area), inside=0)]

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return CropMAE(encoder, self.decoder.cross_self(encoder), self.method)
