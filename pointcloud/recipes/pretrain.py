"""Self-supervised pretraining recipes on LiDAR: schema, samples and method of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Literal

from torch import nn

from suite3d.config import ConfigError
from suite3d.engine.task import RunConfig, Task, TrainConfig
from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.regions import ClusterRegions
from suite3d.pointcloud.data.source import FrameSource, PairSource, Regions
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.pointcloud.encoders.build import build_encoder
from suite3d.pointcloud.encoders.config import LidarEncoderConfig
from suite3d.pointcloud.methods.bev_contrast import BEVContrast, BEVContrastConfig
from suite3d.pointcloud.methods.mv_jar import MVJAR, MVJARConfig
from suite3d.pointcloud.methods.occupancy_mae import OccupancyMAE, OccupancyMAEConfig
from suite3d.pointcloud.methods.prc import PRC, PRCConfig
from suite3d.pointcloud.methods.voxel_mae import VoxelMAE, VoxelMAEConfig
from suite3d.pointcloud.recipes.augment import AugmentConfig, build_transforms
from suite3d.pointcloud.recipes.data import LidarDataConfig, build_dataset, describe_data
from suite3d.pointcloud.recipes.probe import ProbeConfig, build_probe
from suite3d.source import Source


@dataclass(kw_only=True)
class PretrainRecipe(ABC):
    """What every LiDAR pretraining recipe configures; subclasses add ``method``.

    Attributes:
        data: the scans.
        augment: global augmentation, drawn anew for every view.
        encoder: the part that survives.
        train: the loop.
        probe: the online probe; it reads labels where the data have them and never trains the encoder.
        run: the run directory.
    """

    data: LidarDataConfig = field(default_factory=LidarDataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    encoder: LidarEncoderConfig = field(default_factory=LidarEncoderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @abstractmethod
    def build_method(self, encoder: LidarEncoder) -> nn.Module:
        """The method around a fresh encoder."""

    def build_source(self, dataset: FrameDataset) -> Source:
        """Single augmented scans; contrastive recipes override this with pairs."""
        return FrameSource(
            dataset,
            build_transforms(self.augment),
            channels=self.encoder.channels,
            point_range=self.encoder.point_range,
            memory_mb=self.data.memory_mb,
        )

    def pairs(self, dataset: FrameDataset, *, mode: Literal["temporal", "augment"], max_gap: int = 5, regions: Regions | None = None) -> PairSource:
        """Two aligned views of each scan; arguments as for :class:`PairSource`."""
        return PairSource(
            dataset,
            build_transforms(self.augment),
            mode=mode,
            max_gap=max_gap,
            regions=regions,
            channels=self.encoder.channels,
            point_range=self.encoder.point_range,
            memory_mb=self.data.memory_mb,
        )

    def task(self) -> Task:
        """Model and data, ready for the loop. Raises ConfigError when the data lack what the method needs."""
        dataset = build_dataset(self.data)
        try:
            source = self.build_source(dataset)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        encoder = build_encoder(self.encoder)
        probe = build_probe(self.probe, self.data, self.encoder) if self.train.probe_every > 0 else None
        provenance = {
            "stage": "pretrain",
            "recipe": type(self).__name__.removesuffix("Recipe"),
            "data": describe_data(self.data),
            "split": self.data.split,
            "scans": len(dataset),
            "labels": "none",
            "poses": "used" if isinstance(source, PairSource) and source.mode == "temporal" else "not used",
            "probe labels": "none" if probe is None else f"{probe.description}; the probe never trains the encoder",
        }
        return Task(
            model=self.build_method(encoder),
            train=source,
            provenance=provenance,
            encoder_config=asdict(self.encoder),
            probe=probe,
        )


@dataclass(kw_only=True)
class MVJARRecipe(PretrainRecipe):
    """Masked voxel jigsaw and reconstruction."""

    method: MVJARConfig = field(default_factory=MVJARConfig)

    def build_method(self, encoder: LidarEncoder) -> nn.Module:
        return MVJAR(encoder, self.method)


@dataclass(kw_only=True)
class VoxelMAERecipe(PretrainRecipe):
    """Voxel masked autoencoder."""

    method: VoxelMAEConfig = field(default_factory=VoxelMAEConfig)

    def build_method(self, encoder: LidarEncoder) -> nn.Module:
        return VoxelMAE(encoder, self.method)


@dataclass(kw_only=True)
class OccupancyMAERecipe(PretrainRecipe):
    """Masked occupancy prediction."""

    method: OccupancyMAEConfig = field(default_factory=OccupancyMAEConfig)

    def build_method(self, encoder: LidarEncoder) -> nn.Module:
        return OccupancyMAE(encoder, self.method)


@dataclass(kw_only=True)
class BEVContrastRecipe(PretrainRecipe):
    """Contrast of bird's-eye cells between two sweeps of a drive.

    Attributes:
        max_gap: largest distance between the two sweeps, in frames.
    """

    method: BEVContrastConfig = field(default_factory=BEVContrastConfig)
    max_gap: int = 5

    def build_method(self, encoder: LidarEncoder) -> nn.Module:
        return BEVContrast(encoder, self.method)

    def build_source(self, dataset: FrameDataset) -> Source:
        return self.pairs(dataset, mode="temporal", max_gap=self.max_gap)


@dataclass(kw_only=True)
class PRCRecipe(PretrainRecipe):
    """CALICO's point-region contrast between two augmentations of a scan.

    Attributes:
        eps, min_points: of the DBSCAN that makes the regions, metres and points.
    """

    method: PRCConfig = field(default_factory=PRCConfig)
    eps: float = 0.75
    min_points: int = 5

    def build_method(self, encoder: LidarEncoder) -> nn.Module:
        return PRC(encoder, self.method)

    def build_source(self, dataset: FrameDataset) -> Source:
        return self.pairs(dataset, mode="augment", regions=ClusterRegions(eps=self.eps, min_points=self.min_points))
