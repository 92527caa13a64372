"""Masked modelling across views, and its relatives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from torch import nn

from suite3d.config import ConfigError
from suite3d.image.appearance import AppearanceConfig
from suite3d.image.backbones.resnet import ResNet
from suite3d.image.data.source import ViewGroup
from suite3d.image.recipes.base import ImagePretrainRecipe, ImageViTRecipe, contrast_view
from suite3d.image.recipes.encoder import ImageViTConfig
from suite3d.image.views import ViewConfig
from suite3d.methods.cae import CAE, CAEConfig, LatentRegressor, PixelTarget, RandomTokens
from suite3d.methods.croco import CroCo, CroCoConfig
from suite3d.methods.crop_mae import CropMAE, CropMAEConfig
from suite3d.methods.mmc import MMC, MMCConfig
from suite3d.methods.selfie import AttentionPooling, Selfie, SelfieConfig
from suite3d.methods.siam_mae import SiamMAE, SiamMAEConfig
from suite3d.methods.umd import UMD, UMDConfig, UMDDecoder
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


def pair_view() -> ViewConfig:
    """A crop of half to all of a picture, colours as they are; not mirrored, since both views must show one world."""
    return ViewConfig(crop="random_resized", area=(0.5, 1.0))


def recoloured_pair_view() -> ViewConfig:
    """As :func:`pair_view`, each view with colours of its own."""
    return replace(pair_view(), jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


@dataclass(kw_only=True)
class SiamMAERecipe(ImageViTRecipe):
    """Two pictures of a scene, the second nearly empty."""

    augment: ViewConfig = field(default_factory=pair_view)
    method: SiamMAEConfig = field(default_factory=SiamMAEConfig)
    decoder: ViewDecoderConfig = field(default_factory=ViewDecoderConfig)
    base_lr: float = 1.0e-4

    def views(self) -> list[ViewGroup]:
        return [ViewGroup(view=self.augment), ViewGroup(view=self.augment, picture=1)]

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return SiamMAE(encoder, self.decoder.cross_self(encoder), self.method)


@dataclass(kw_only=True)
class CroCoRecipe(ImageViTRecipe):
    """Two views of a scene, the first nearly empty."""

    augment: ViewConfig = field(default_factory=recoloured_pair_view)
    encoder: ImageViTConfig = field(default_factory=lambda: ImageViTConfig(class_token=False))
    method: CroCoConfig = field(default_factory=CroCoConfig)
    decoder: ViewDecoderConfig = field(default_factory=lambda: ViewDecoderConfig(dim=512, depth=8, heads=16))

    def views(self) -> list[ViewGroup]:
        return [ViewGroup(view=self.augment), ViewGroup(view=self.augment, picture=1)]

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return CroCo(encoder, self.decoder.self_cross(encoder), self.method)


@dataclass(kw_only=True)
class RegressorConfig:
    """Regressor and decoder of CAE, as wide as the encoder.

    Attributes:
        depth, decoder_depth, layer_scale: see :class:`suite3d.methods.cae.LatentRegressor`.
    """

    depth: int = 4
    decoder_depth: int = 4
    layer_scale: float = 0.1


@dataclass(kw_only=True)
class CAERecipe(ImageViTRecipe):
    """Context autoencoding.

    Attributes:
        target: ``pixels`` (normalised) or ``random_tokens`` (of a random quantiser with ``codes`` codes).
    """

    encoder: ImageViTConfig = field(default_factory=lambda: ImageViTConfig(layer_scale=0.1))
    method: CAEConfig = field(default_factory=CAEConfig)
    regressor: RegressorConfig = field(default_factory=RegressorConfig)
    target: Literal["pixels", "random_tokens"] = "pixels"
    codes: int = 8192
    base_lr: float = 1.875e-4

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        t, p, q = encoder.patch
        values = encoder.config.channels * t * p * q
        target = PixelTarget(values) if self.target == "pixels" else RandomTokens(values, self.codes)
        sizes = self.regressor
        regressor = LatentRegressor(encoder, target.outputs, depth=sizes.depth, decoder_depth=sizes.decoder_depth, layer_scale=sizes.layer_scale)
        return CAE(encoder, regressor, target, self.method)


@dataclass(kw_only=True)
class PatchNetworkConfig:
    """The patch network of Selfie: the first stages of a ResNet.

    Attributes:
        depth, width, stem, stages: see :class:`suite3d.image.backbones.resnet.ResNet`.
    """

    depth: int = 50
    width: int = 64
    stem: Literal["imagenet", "small"] = "imagenet"
    stages: int = 3


@dataclass(kw_only=True)
class AttentionPoolingConfig:
    """The attention pooling of Selfie.

    Attributes:
        depth, heads, hidden: see :class:`suite3d.methods.selfie.AttentionPooling`.
    """

    depth: int = 3
    heads: int = 32
    hidden: int = 640


@dataclass(kw_only=True)
class SelfieRecipe(ImagePretrainRecipe):
    """Choosing the right patch for a hole.

    Attributes:
        encoder: the part that survives.
    """

    encoder: PatchNetworkConfig = field(default_factory=PatchNetworkConfig)
    method: SelfieConfig = field(default_factory=SelfieConfig)
    pooling: AttentionPoolingConfig = field(default_factory=AttentionPoolingConfig)

    def build_encoder(self) -> ResNet:
        sizes = self.encoder
        return ResNet(sizes.depth, width=sizes.width, stem=sizes.stem, stages=sizes.stages)

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, ResNet)
        if self.augment.size % self.method.patch:
            raise ConfigError(f"augment.size={self.augment.size} is not a whole number of patches: method.patch={self.method.patch}")
        sizes, grid = self.pooling, self.augment.size // self.method.patch
        return Selfie(encoder, AttentionPooling(encoder.embed_dim, grid, depth=sizes.depth, heads=sizes.heads, hidden=sizes.hidden), self.method)


@dataclass(kw_only=True)
class MMCRecipe(ImageViTRecipe):
    """Repair, self-distillation and contrast of corrupted views.

    Attributes:
        appearance: blur and solarisation of both views.
    """

    augment: ViewConfig = field(default_factory=contrast_view)
    appearance: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.5))
    method: MMCConfig = field(default_factory=MMCConfig)

    def views(self) -> list[ViewGroup]:
        return [ViewGroup(count=2, view=self.augment, appearance=self.appearance)]

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return MMC(encoder, self.method)


def symmetric_crop() -> ViewConfig:
    """UMD's view: a crop of four fifths to all of the picture, mirrored half of the time, pixels in [-1, 1]."""
    return ViewConfig(crop="random_resized", area=(0.8, 1.0), flip=0.5, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclass(kw_only=True)
class UMDRecipe(ImageViTRecipe):
    """Completion and denoising in one.

    Attributes:
        decoder_depth: blocks of the decoder, which is as wide as the encoder.
    """

    augment: ViewConfig = field(default_factory=symmetric_crop)
    encoder: ImageViTConfig = field(default_factory=lambda: ImageViTConfig(patch=4, positions="learned", registers=3))
    method: UMDConfig = field(default_factory=UMDConfig)
    decoder_depth: int = 4

    def build_method(self, encoder: nn.Module) -> nn.Module:
        assert isinstance(encoder, VisionTransformer)
        return UMD(encoder, UMDDecoder(encoder, depth=self.decoder_depth), self.method)
