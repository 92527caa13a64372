"""The encoder of an image recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from suite3d.config import ConfigError
from suite3d.image.backbones.convnext import ConvNeXt
from suite3d.image.backbones.resnet import ResNet
from suite3d.interop.load import read_checkpoint
from suite3d.interop.save import read_metadata
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.positions import PositionKind, Positions
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.nn.vit_sizes import vit_config


@dataclass(kw_only=True)
class ImageViTConfig:
    """A vision transformer: a published size, or parts of one replaced.

    Attributes:
        size: S, B, L, H or g.
        dim, depth, heads: replace those of the size; 0 = as published.
        patch: side of a patch; 0 = as published (16; 14 for g).
        positions, class_token, registers, drop_path, layer_scale, any_size, checkpoint: see :class:`suite3d.nn.vit.ViTConfig`.
    """

    size: Literal["S", "B", "L", "H", "g"] = "B"
    dim: int = 0
    depth: int = 0
    heads: int = 0
    patch: int = 0
    positions: PositionKind = "sincos_2d"
    class_token: bool = True
    registers: int = 0
    drop_path: float = 0.0
    layer_scale: float = 0.0
    any_size: bool = False
    checkpoint: bool = False

    def settings(self, side: int) -> ViTConfig:
        """For pictures of ``side`` pixels. Raises ConfigError where the sizes do not fit together."""
        built = vit_config(
            self.size,
            clip=(1, side, side),
            patch=self.patch or None,
            positions=self.positions,
            qkv_bias="full",
            class_token=self.class_token,
            registers=self.registers,
            drop_path=self.drop_path,
            checkpoint=self.checkpoint,
        )
        built = replace(built, dim=self.dim or built.dim, depth=self.depth or built.depth, heads=self.heads or built.heads)
        built = replace(built, layer_scale=self.layer_scale, any_size=self.any_size)
        try:
            _ = built.grid
        except ValueError as error:
            raise ConfigError(f"encoder: {error}") from error
        return built

    def build(self, side: int) -> VisionTransformer:
        """The encoder. Raises ConfigError where the sizes do not fit together."""
        try:
            return VisionTransformer(self.settings(side))
        except ValueError as error:
            raise error if isinstance(error, ConfigError) else ConfigError(f"encoder: {error}") from error


@dataclass(kw_only=True)
class ConvNeXtConfig:
    """A ConvNeXt: a published size, or parts of one replaced; see :class:`suite3d.image.backbones.convnext.ConvNeXt`."""

    size: Literal["T", "S", "B", "L"] = "T"
    depths: tuple[int, ...] = ()
    dims: tuple[int, ...] = ()
    patch: int = 4
    drop_path: float = 0.0
    layer_scale: float = 1e-6


@dataclass(kw_only=True)
class ImageEncoderConfig:
    """A vision transformer, a residual network or a ConvNeXt.

    Attributes:
        kind: which one.
        vit: the vision transformer.
        convnext: the ConvNeXt.
        depth, width, stem: the residual network; see :class:`suite3d.image.backbones.resnet.ResNet`.
    """

    kind: Literal["vit", "resnet", "convnext"] = "resnet"
    vit: ImageViTConfig = field(default_factory=ImageViTConfig)
    convnext: ConvNeXtConfig = field(default_factory=ConvNeXtConfig)
    depth: int = 50
    width: int = 64
    stem: Literal["imagenet", "small"] = "imagenet"

    def build(self, side: int) -> nn.Module:
        """The encoder for pictures of ``side`` pixels. Raises ConfigError where the sizes do not fit together."""
        if self.kind == "vit":
            return self.vit.build(side)
        try:
            return ResNet(self.depth, width=self.width, stem=self.stem) if self.kind == "resnet" else ConvNeXt(**asdict(self.convnext))
        except ValueError as error:
            raise ConfigError(f"encoder: {error}") from error


@dataclass(kw_only=True)
class ImageDecoderConfig:
    """The decoder of masked pixel modelling; the defaults are MAE's.

    Attributes:
        kind: ``self`` (MAE) or ``cross`` (CrossMAE).
        dim, depth, heads: channels, blocks, attention heads.
    """

    kind: Literal["self", "cross"] = "self"
    dim: int = 512
    depth: int = 8
    heads: int = 16

    def build(self, encoder: VisionTransformer, *, outputs: int = 0) -> SelfDecoder | CrossDecoder:
        """The decoder for an encoder; ``outputs`` numbers a token, 0 = the values of a patch. Raises ConfigError for sizes that do not fit."""
        t, p, q = encoder.patch
        kind = CrossDecoder if self.kind == "cross" else SelfDecoder
        try:
            positions = Positions("sincos_2d", encoder.grid, self.dim)
            return kind(encoder.embed_dim, self.dim, self.depth, self.heads, outputs or encoder.config.channels * t * p * q, positions)
        except ValueError as error:
            raise ConfigError(f"decoder: {error}") from error


def rebuild_encoder(description: Mapping[str, Any]) -> nn.Module:
    """The encoder of a stored ``describe()``, with fresh weights. Raises ConfigError for one that is not of an image encoder."""
    kind, config = description.get("class"), description.get("config", {})
    if kind == "VisionTransformer":
        return VisionTransformer(ViTConfig(**config))
    if kind in ("ResNet", "ConvNeXt"):
        return ResNet(**config) if kind == "ResNet" else ConvNeXt(**config)
    raise ConfigError(f"these weights are not of an image encoder of this project: expected VisionTransformer, ResNet or ConvNeXt, got {kind}")


def load_frozen(run: Path) -> nn.Module:
    """The encoder of a run directory or of its ``encoder.safetensors``, in evaluation mode, without gradients. Raises ConfigError."""
    file = run / "encoder.safetensors" if run.is_dir() else run
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; expected a run directory with a finished or saved pretraining")
    encoder = rebuild_encoder(read_metadata(file).get("description", {}))
    encoder.load_state_dict(read_checkpoint(file))
    return encoder.eval().requires_grad_(False)
