"""Pretraining recipes that embed the same places of several views together, with the losses of the image methods: LeJEPA, SwAV, MV-DHEL."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field

from torch import nn

from suite3d.config import ConfigError
from suite3d.image.recipes.encoder import ImageEncoderConfig
from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.pointcloud.methods.lidar_lejepa import LidarLeJEPA, LidarLeJEPAConfig
from suite3d.pointcloud.methods.lidar_mv_dhel import LidarMVDHEL, LidarMVDHELConfig
from suite3d.pointcloud.methods.lidar_swav import LidarSwAV, LidarSwAVConfig
from suite3d.pointcloud.recipes.pretrain import PretrainRecipe
from suite3d.source import Source


@dataclass(kw_only=True)
class TwoViewsRecipe(PretrainRecipe, ABC):
    """Two augmentations of every scan, with the points that both kept."""

    def build_source(self, dataset: FrameDataset) -> Source:
        return self.pairs(dataset, mode="augment")


@dataclass(kw_only=True)
class LidarLeJEPARecipe(TwoViewsRecipe):
    """Prediction of places by Gaussian embeddings."""

    method: LidarLeJEPAConfig = field(default_factory=LidarLeJEPAConfig)

    def build_method(self, encoder: LidarEncoder) -> nn.Module:
        return LidarLeJEPA(encoder, self.method)


@dataclass(kw_only=True)
class LidarSwAVRecipe(TwoViewsRecipe):
    """Swapped prediction of the balanced assignments of places."""

    method: LidarSwAVConfig = field(default_factory=LidarSwAVConfig)

    def build_method(self, encoder: LidarEncoder) -> nn.Module:
        return LidarSwAV(encoder, self.method)


@dataclass(kw_only=True)
class LidarMVDHELRecipe(PretrainRecipe):
    """Contrast of places in the camera picture, the sweep and a neighbouring sweep.

    Attributes:
        image: the picture's encoder (resnet or convnext), trained along.
        max_gap: largest distance between the two sweeps, in frames.
    """

    method: LidarMVDHELConfig = field(default_factory=LidarMVDHELConfig)
    image: ImageEncoderConfig = field(default_factory=lambda: ImageEncoderConfig(depth=18))
    max_gap: int = 5

    def build_method(self, encoder: LidarEncoder) -> nn.Module:
        if self.image.kind == "vit":
            raise ConfigError("image.kind=vit: the pictures are not square, use resnet or convnext")
        return LidarMVDHEL(encoder, self.image.build(self.data.street.image_width), self.method)

    def build_source(self, dataset: FrameDataset) -> Source:
        return self.pairs(dataset, mode="temporal", max_gap=self.max_gap)
