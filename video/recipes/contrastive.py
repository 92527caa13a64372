"""Pretraining recipes that compare two clips of a video: CVRL and RSPNet, on 3D residual networks."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import nn

from suite3d.engine.norms import synchronise_norms
from suite3d.source import Source
from suite3d.video.backbones.resnet3d import VideoResNet, r2plus1d_18, r3d_18, r3d_50
from suite3d.video.data.lists import VideoList
from suite3d.video.data.pairs import IntervalClipSource
from suite3d.video.data.source import ClipSource
from suite3d.video.methods.cvrl import CVRL, CVRLConfig
from suite3d.video.methods.rspnet import RSPNet, RSPNetConfig
from suite3d.video.recipes.pretrain import ClipPretrainRecipe

NETWORKS = {"r3d_18": r3d_18, "r2plus1d_18": r2plus1d_18, "r3d_50": r3d_50}


@dataclass(kw_only=True)
class VideoResNetConfig:
    """A 3D residual network.

    Attributes:
        name: ``r3d_18``, ``r2plus1d_18`` or CVRL's ``r3d_50``.
        width: channels of the stem; 64 in all published ones.
    """

    name: Literal["r3d_18", "r2plus1d_18", "r3d_50"] = "r3d_50"
    width: int = 64


@dataclass(kw_only=True)
class PairPretrainRecipe(ClipPretrainRecipe):
    """What the recipes on two clips of a video configure; subclasses add ``method``.

    Attributes:
        encoder: the part that survives.
    """

    encoder: VideoResNetConfig = field(default_factory=VideoResNetConfig)

    @abstractmethod
    def build_method(self, encoder: VideoResNet) -> nn.Module:
        """The method around a fresh encoder."""

    def build(self) -> tuple[nn.Module, dict[str, Any]]:
        return self.build_method(NETWORKS[self.encoder.name](width=self.encoder.width)), asdict(self.encoder)


@dataclass(kw_only=True)
class CVRLRecipe(PairPretrainRecipe):
    """Contrast of two clips that are close in time."""

    method: CVRLConfig = field(default_factory=CVRLConfig)

    def build_method(self, encoder: VideoResNet) -> nn.Module:
        return synchronise_norms(CVRL(encoder, self.method), self.train.device)

    def build_source(self, videos: VideoList) -> Source:
        data = self.data
        return IntervalClipSource(
            videos.items, frames=data.frames, stride=data.stride, augment=self.augment, windows=2, repeats=data.repeats, reader=data.reader
        )


@dataclass(kw_only=True)
class RSPNetRecipe(PairPretrainRecipe):
    """Relative speed and instance discrimination. ``data.frames`` is what the encoder sees; ``method.speed`` times as many are read."""

    encoder: VideoResNetConfig = field(default_factory=lambda: VideoResNetConfig(name="r3d_18"))
    method: RSPNetConfig = field(default_factory=RSPNetConfig)

    def build_method(self, encoder: VideoResNet) -> nn.Module:
        return RSPNet(encoder, self.method)

    def build_source(self, videos: VideoList) -> Source:
        data = self.data
        frames = data.frames * self.method.speed
        return ClipSource(videos.items, frames=frames, stride=data.stride, augment=self.augment, windows=2, repeats=data.repeats, reader=data.reader)
