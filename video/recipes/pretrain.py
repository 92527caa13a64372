"""Self-supervised pretraining recipes on video: schema, clips and method of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from suite3d.config import ConfigError
from suite3d.engine.budget import set_budget
from suite3d.engine.task import RunConfig, Task, TrainConfig
from suite3d.image.views import ViewConfig
from suite3d.nn.vit import VisionTransformer
from suite3d.source import Source
from suite3d.video.data.lists import VideoList
from suite3d.video.methods.videomae import VideoMAE, VideoMAEConfig
from suite3d.video.methods.videomae_v2 import VideoMAEV2, VideoMAEV2Config
from suite3d.video.recipes.data import VideoDataConfig, build_list, build_source, describe_data
from suite3d.video.recipes.encoder import VideoDecoderConfig, VideoEncoderConfig, build_decoder, build_vit
from suite3d.video.recipes.probe import ClipProbeConfig, build_probe


@dataclass(kw_only=True)
class ClipPretrainRecipe(ABC):
    """What every pretraining recipe on clips configures, whatever the encoder; subclasses add ``encoder`` and ``method``.

    Attributes:
        data: the videos, and how clips are taken from them.
        augment: crops and colours; its ``size`` is the side of the encoder's input.
        train: the loop.
        base_lr: learning rate for a batch of 256 clips; 0 = ``train.optim.lr`` as it is.
        probe: the online probe; it reads labels where the data have them and never trains the encoder.
        run: the run directory.
    """

    data: VideoDataConfig = field(default_factory=VideoDataConfig)
    augment: ViewConfig = field(default_factory=ViewConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    base_lr: float = 1.5e-4
    probe: ClipProbeConfig = field(default_factory=ClipProbeConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def clip(self) -> tuple[int, int, int]:
        """Frames, height and width of the encoder's input."""
        return self.data.frames, self.augment.size, self.augment.size

    @abstractmethod
    def build(self) -> tuple[nn.Module, dict[str, Any]]:
        """The method around a fresh encoder, and the plain dict that rebuilds the encoder. Raises ValueError for parts that do not fit."""

    def build_source(self, videos: VideoList) -> Source:
        """Training clips; methods that compare windows or crops override this."""
        return build_source(self.data, self.augment, videos)

    def task(self) -> Task:
        """Model and data, ready for the loop. Raises ConfigError when the data or the sizes do not fit."""
        try:
            method, encoder_config = self.build()
        except ValueError as error:
            raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
        videos = build_list(self.data)
        source = self.build_source(videos)
        probe = build_probe(self.probe, self.data, self.augment) if self.train.probe_every > 0 else None
        budget = set_budget(self.train, base_lr=self.base_lr, repeats=self.data.repeats, samples=len(videos.items), kind="videos")
        provenance = {
            "stage": "pretrain",
            "recipe": type(self).__name__.removesuffix("Recipe"),
            "data": describe_data(self.data),
            "list": videos.describe(),
            "videos": len(videos.items),
            "labels": "none",
            "probe labels": "none" if probe is None else f"{probe.description}; the probe never trains the encoder",
            "samples_seen": budget.samples_seen,
            "effective_epochs": round(budget.effective_epochs, 2),
            "lr_abs": budget.lr_abs,
        }
        return Task(model=method, train=source, provenance=provenance, encoder_config=encoder_config, probe=probe)


@dataclass(kw_only=True)
class VideoPretrainRecipe(ClipPretrainRecipe):
    """What every pretraining recipe around a vision transformer configures; subclasses add ``method``.

    Attributes:
        encoder: the part that survives.
    """

    encoder: VideoEncoderConfig = field(default_factory=VideoEncoderConfig)

    @abstractmethod
    def build_method(self, encoder: VisionTransformer) -> nn.Module:
        """The method around a fresh encoder."""

    def build_encoder(self) -> VisionTransformer:
        """The encoder for the recipe's clips."""
        return build_vit(self.encoder, self.clip)

    def build(self) -> tuple[nn.Module, dict[str, Any]]:
        encoder = self.build_encoder()
        return self.build_method(encoder), asdict(encoder.config)


@dataclass(kw_only=True)
class VideoMAERecipe(VideoPretrainRecipe):
    """Masked pixel modelling."""

    method: VideoMAEConfig = field(default_factory=VideoMAEConfig)
    decoder: VideoDecoderConfig = field(default_factory=VideoDecoderConfig)

    def build_method(self, encoder: VisionTransformer) -> nn.Module:
        return VideoMAE(encoder, build_decoder(self.decoder, encoder, self.encoder.size, version=1), self.method)


@dataclass(kw_only=True)
class VideoMAEV2Recipe(VideoPretrainRecipe):
    """Masked pixel modelling with dual masking."""

    method: VideoMAEV2Config = field(default_factory=VideoMAEV2Config)
    decoder: VideoDecoderConfig = field(default_factory=VideoDecoderConfig)

    def build_method(self, encoder: VisionTransformer) -> nn.Module:
        return VideoMAEV2(encoder, build_decoder(self.decoder, encoder, self.encoder.size, version=2), self.method)
