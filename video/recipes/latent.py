"""Pretraining recipes whose target is not pixels: prototypes (SIGMA) and the latents of a teacher (V-JEPA 2, SALT)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import nn

from suite3d.config import ConfigError
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.positions import Positions
from suite3d.nn.predictor import LatentPredictor, initialise_rescaled
from suite3d.nn.vit import VisionTransformer
from suite3d.nn.vit_sizes import decoder_size
from suite3d.video.methods.salt import SALT, SALTConfig
from suite3d.video.methods.sigma import SIGMA, ImageTarget, PixelTarget, SIGMAConfig
from suite3d.video.methods.vjepa import VJEPA, VJEPAConfig
from suite3d.video.recipes.encoder import VideoDecoderConfig, VideoEncoderConfig, encoder_settings
from suite3d.video.recipes.frozen_encoder import load_frozen
from suite3d.video.recipes.pretrain import VideoPretrainRecipe


@dataclass(kw_only=True)
class SIGMATargetConfig:
    """What SIGMA's hidden tubes are described by.

    Attributes:
        kind: ``pixels`` (a perceptron trained jointly) or ``image`` (a frozen image transformer).
        widths: of the perceptron's layers.
        weights: file of the image transformer (DINO, DINOv2, timm, MAE, a run of ours).
    """

    kind: Literal["pixels", "image"] = "pixels"
    widths: tuple[int, ...] = (1024, 1024, 512, 256)
    weights: Path = Path("")


@dataclass(kw_only=True)
class PredictorConfig:
    """The latent predictor: channels, blocks and attention heads."""

    dim: int = 384
    depth: int = 12
    heads: int = 12


@dataclass(kw_only=True)
class SIGMARecipe(VideoPretrainRecipe):
    """Masked prediction of Sinkhorn-balanced prototypes."""

    method: SIGMAConfig = field(default_factory=SIGMAConfig)
    decoder: VideoDecoderConfig = field(default_factory=VideoDecoderConfig)
    target: SIGMATargetConfig = field(default_factory=SIGMATargetConfig)

    def build_method(self, encoder: VisionTransformer) -> nn.Module:
        target = PixelTarget(encoder, tuple(self.target.widths)) if self.target.kind == "pixels" else self.build_image_target(encoder)
        published = decoder_size(self.encoder.size)
        dim, depth, heads = self.decoder.dim or published.dim, self.decoder.depth or published.depth, self.decoder.heads or published.heads
        kind = CrossDecoder if self.decoder.kind == "cross" else SelfDecoder
        decoder = kind(encoder.embed_dim, dim, depth, heads, target.dim, Positions("sincos_flat", encoder.grid, dim))
        return SIGMA(encoder, decoder, target, self.method)

    def build_image_target(self, encoder: VisionTransformer) -> ImageTarget:
        """The frozen image transformer, at the size of the clips. Raises ConfigError without its file."""
        file = self.target.weights
        if file == Path(""):
            raise ConfigError("target.kind=image needs the weights of an image transformer: give them as target.weights=FILE")
        if not file.exists():
            raise ConfigError(f"target.weights={file}: no such file or folder")
        return ImageTarget(frozen_transformer(file, (1, *self.clip[1:])), encoder)


@dataclass(kw_only=True)
class VJEPARecipe(VideoPretrainRecipe):
    """Prediction of a moving average's latents."""

    encoder: VideoEncoderConfig = field(default_factory=lambda: VideoEncoderConfig(size="L", positions="rope"))
    method: VJEPAConfig = field(default_factory=VJEPAConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)

    def build_encoder(self) -> VisionTransformer:
        return build_jepa_encoder(self.encoder, self.clip)

    def build_method(self, encoder: VisionTransformer) -> nn.Module:
        return VJEPA(encoder, build_predictor(self.predictor, encoder, encoder.embed_dim, len(self.method.masks.blocks)), self.method)


@dataclass(kw_only=True)
class SALTRecipe(VideoPretrainRecipe):
    """Prediction of a frozen teacher's latents.

    Attributes:
        init: the teacher: the run directory of a finished ``suite3d pretrain videomae``, or a file of VideoMAE weights.
    """

    init: Path = Path("")
    encoder: VideoEncoderConfig = field(default_factory=lambda: VideoEncoderConfig(size="L", positions="rope"))
    method: SALTConfig = field(default_factory=SALTConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)

    def build_encoder(self) -> VisionTransformer:
        return build_jepa_encoder(self.encoder, self.clip)

    def build_method(self, encoder: VisionTransformer) -> nn.Module:
        if self.init == Path(""):
            raise ConfigError("salt needs a trained teacher: run `suite3d pretrain videomae` first and give its run directory as init=RUN")
        if not self.init.exists():
            raise ConfigError(f"init={self.init}: no such run directory or file; salt needs the teacher that `suite3d pretrain videomae` trains")
        teacher = frozen_transformer(self.init, self.clip)
        predictor = build_predictor(self.predictor, encoder, teacher.embed_dim, len(self.method.masks.blocks))
        return SALT(encoder, predictor, teacher, self.method)


def build_jepa_encoder(config: VideoEncoderConfig, clip: tuple[int, int, int]) -> VisionTransformer:
    """As :func:`suite3d.video.recipes.encoder.build_vit`, with biases on queries, keys and values and V-JEPA's initial weights."""
    encoder = VisionTransformer(replace(encoder_settings(config, clip), qkv_bias="full"))
    initialise_rescaled(encoder, encoder.blocks)
    return encoder


def build_predictor(config: PredictorConfig, encoder: VisionTransformer, out_dim: int, masks: int) -> LatentPredictor:
    """The predictor on an encoder's grid."""
    return LatentPredictor(encoder.embed_dim, out_dim, encoder.grid, dim=config.dim, depth=config.depth, heads=config.heads, masks=masks)


def frozen_transformer(path: Path, clip: tuple[int, int, int]) -> VisionTransformer:
    """The vision transformer that a file or run directory holds. Raises ConfigError for anything else, see :func:`load_frozen`."""
    network = load_frozen(path, clip)
    if not isinstance(network, VisionTransformer):
        raise ConfigError(f"{path} holds a {type(network).__name__}, expected a vision transformer")
    return network
