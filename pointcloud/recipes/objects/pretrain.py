"""Self-supervised pretraining recipes on clouds of single objects: schema, samples and method of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from suite3d.config import ConfigError
from suite3d.engine.budget import set_budget
from suite3d.engine.task import RunConfig, Task, TrainConfig
from suite3d.methods.dino import DINOConfig
from suite3d.pointcloud.data.objects.source import ObjectSource
from suite3d.pointcloud.data.objects.views import ObjectViewConfig
from suite3d.pointcloud.encoders.point_patch import PointPatchConfig, PointPatchTransformer
from suite3d.pointcloud.interop.point_mae import load_point_mae
from suite3d.pointcloud.methods.object_dino import ObjectDINO
from suite3d.pointcloud.methods.point_mae import PointMAE, PointMAEConfig
from suite3d.pointcloud.recipes.objects.data import ObjectDataConfig, build_objects, describe_objects
from suite3d.pointcloud.recipes.objects.probe import ObjectProbeConfig, build_probe


@dataclass(kw_only=True)
class ObjectPretrainRecipe(ABC):
    """What every object recipe configures; subclasses add ``method`` and, where one view is not enough, :meth:`views`.

    Attributes:
        data: the objects.
        augment: of the (first) views.
        encoder: the part that survives.
        init: weights to start from: a run, or a file of the Point-MAE family; empty = fresh ones.
        train: the loop.
        base_lr: learning rate for a batch of 256 objects; 0 = ``train.optim.lr`` as it is.
        probe: the online probe; it reads labels where the data have them and never trains the encoder.
        run: the run directory.
    """

    data: ObjectDataConfig = field(default_factory=ObjectDataConfig)
    augment: ObjectViewConfig = field(default_factory=ObjectViewConfig)
    encoder: PointPatchConfig = field(default_factory=PointPatchConfig)
    init: str = ""
    train: TrainConfig = field(default_factory=TrainConfig)
    base_lr: float = 0.0
    probe: ObjectProbeConfig = field(default_factory=ObjectProbeConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @abstractmethod
    def build_method(self, encoder: PointPatchTransformer) -> nn.Module:
        """The method around a fresh encoder."""

    def views(self) -> list[ObjectViewConfig]:
        """The views of every object."""
        return [self.augment]

    def task(self) -> Task:
        """Model and data, ready for the loop. Raises ConfigError when the data or the sizes do not fit."""
        channels = self.encoder.channels
        objects = build_objects(self.data, channels=channels)
        load_report = None
        try:
            source = ObjectSource(objects, self.views(), channels=channels, memory_mb=self.data.memory_mb)
            encoder = PointPatchTransformer(self.encoder)
            if self.init:
                load_report = load_point_mae(encoder, Path(self.init)).as_dict()
            method = self.build_method(encoder)
        except (ValueError, FileNotFoundError) as error:
            raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
        points = self.augment.points
        probe = build_probe(self.probe, self.data, points=points, channels=channels) if self.train.probe_every > 0 else None
        budget = set_budget(self.train, base_lr=self.base_lr, repeats=1, samples=len(source), kind="objects")
        provenance: dict[str, Any] = {
            "stage": "pretrain",
            "modality": "object clouds",
            "recipe": type(self).__name__.removesuffix("Recipe"),
            "data": describe_objects(self.data),
            "objects": len(source),
            "labels": "none",
            "probe labels": "none" if probe is None else f"{probe.description}; the probe never trains the encoder",
            "samples_seen": budget.samples_seen,
            "effective_epochs": round(budget.effective_epochs, 2),
            "lr_abs": budget.lr_abs,
        }
        return Task(model=method, train=source, provenance=provenance, encoder_config=encoder.describe(), probe=probe, load_report=load_report)


@dataclass(kw_only=True)
class PointMAERecipe(ObjectPretrainRecipe):
    """Masked patches; scale and shift are the published augmentation."""

    augment: ObjectViewConfig = field(default_factory=lambda: ObjectViewConfig(scale=(2 / 3, 3 / 2), axis_scale=True, shift=0.2))
    method: PointMAEConfig = field(default_factory=PointMAEConfig)

    def build_method(self, encoder: PointPatchTransformer) -> nn.Module:
        return PointMAE(encoder, self.method)


@dataclass(kw_only=True)
class LocalCloudConfig:
    """The small views; what is not said here they share with the large ones.

    Attributes:
        count: how many; 0 = none.
        points: points of a view.
        crop: share of the object's points that a crop keeps.
    """

    count: int = 4
    points: int = 256
    crop: tuple[float, float] = (0.1, 0.4)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"expected a count of local views >= 0, got {self.count}")


def global_cloud() -> ObjectViewConfig:
    """Nearly all of an object, turned about z and somewhat changed."""
    return ObjectViewConfig(crop=(0.4, 1.0), yaw=float(np.pi), scale=(0.8, 1.25), axis_scale=True, jitter=0.01, dropout=0.2)


@dataclass(kw_only=True)
class ObjectDINORecipe(ObjectPretrainRecipe):
    """Self-distillation between global and local crops of an object.

    Attributes:
        local: the small views.
    """

    augment: ObjectViewConfig = field(default_factory=global_cloud)
    local: LocalCloudConfig = field(default_factory=LocalCloudConfig)
    encoder: PointPatchConfig = field(default_factory=lambda: PointPatchConfig(class_token=True))
    method: DINOConfig = field(default_factory=DINOConfig)

    def build_method(self, encoder: PointPatchTransformer) -> nn.Module:
        return ObjectDINO(encoder, self.method)

    def views(self) -> list[ObjectViewConfig]:
        return [self.augment] * 2 + [replace(self.augment, points=self.local.points, crop=self.local.crop)] * self.local.count
