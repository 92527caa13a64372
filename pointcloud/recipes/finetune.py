"""Fine-tuning recipes for 3D detection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from suite3d.config import ConfigError
from suite3d.engine.task import RunConfig, Task, TrainConfig
from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.paste import PasteDatabase, PasteObjects
from suite3d.pointcloud.data.source import FrameSource
from suite3d.pointcloud.data.splits import LabelSubset, label_subset
from suite3d.pointcloud.data.transforms import Transform
from suite3d.pointcloud.detection.detector import CenterPointConfig, Detector, SecondConfig, build_detector
from suite3d.pointcloud.encoders.build import build_encoder
from suite3d.pointcloud.encoders.config import LidarEncoderConfig
from suite3d.pointcloud.interop.initialise import initialise_encoder
from suite3d.pointcloud.recipes.augment import AugmentConfig, build_transforms
from suite3d.pointcloud.recipes.data import LidarDataConfig, build_dataset, describe_data
from suite3d.pointcloud.recipes.scoring import EvaluateConfig, evaluate_detector


@dataclass(kw_only=True)
class PasteConfig:
    """Ground-truth paste.

    Attributes:
        classes, counts: fill each scan up to ``counts[i]`` objects of ``classes[i]``; no classes = no paste.
        min_points: objects with fewer points are not pasted.
    """

    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    min_points: int = 5


@dataclass(kw_only=True)
class FinetuneRecipe(ABC):
    """What every detection recipe configures; subclasses add ``detector``.

    Attributes:
        init: run directory, ``encoder.safetensors`` or OpenPCDet checkpoint to start the encoder from; empty = from scratch.
        init_minimum: share of the encoder's parameters that must come in, else the run refuses to start.
        twin: ``scratch`` also trains the same model without ``init`` on the same data, order and steps.
        seeds: runs per arm, with seeds ``train.seed``, ``train.seed + 1``, ...
        jobs: of those runs, how many at a time, each in its own process with its share of the threads (one device serves all of them).
        labels: share of the labels, by whole sequences, nested and hashed: ``5%``, ``0.05``, ``100%``.
        label_draw: which of the independent draws.
        classes: what to detect.
    """

    data: LidarDataConfig = field(default_factory=LidarDataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    paste: PasteConfig = field(default_factory=PasteConfig)
    encoder: LidarEncoderConfig = field(default_factory=LidarEncoderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    run: RunConfig = field(default_factory=RunConfig)
    init: str = ""
    init_minimum: float = 0.9
    twin: Literal["none", "scratch"] = "none"
    seeds: int = 1
    jobs: int = 1
    labels: str = "100%"
    label_draw: int = 0
    classes: tuple[str, ...] = ("Car", "Pedestrian", "Cyclist")

    @abstractmethod
    def build_detector(self) -> Detector:
        """A fresh detector."""

    def task(self) -> Task:
        """Model, labelled data and evaluation. Raises ConfigError when the data carry no boxes of the classes."""
        dataset = build_dataset(self.data)
        if "boxes" not in dataset.provides:
            raise ConfigError("fine-tuning a detector needs boxes, and these data have none: add labels, or pretrain on them instead")
        unknown = [name for name in self.classes if dataset.class_names and name not in dataset.class_names]
        if unknown:
            raise ConfigError(f"classes={list(self.classes)}: the data have no {unknown}, only {list(dataset.class_names)}")
        subset = label_subset(dataset, self.labels, draw=self.label_draw)
        detector = self.build_detector()
        report = None
        if self.init:
            report = initialise_encoder(detector.encoder, Path(self.init), minimum=self.init_minimum)
        evaluation = build_dataset(self.data, validation=True)
        return Task(
            model=detector,
            train=self._source(dataset, subset),
            provenance=self._provenance(subset, evaluation),
            encoder_config=asdict(self.encoder),
            evaluate=lambda model, device, path: evaluate_detector(
                _detector(model), evaluation, self.evaluate, device, path, batch_size=self.train.batch_size
            ),
            load_report=report,
        )

    def _source(self, dataset: FrameDataset, subset: LabelSubset) -> FrameSource:
        transforms: list[Transform] = []
        if self.paste.classes:
            if len(self.paste.classes) != len(self.paste.counts):
                raise ConfigError(f"paste.classes and paste.counts must be equally long, got {self.paste.classes} and {self.paste.counts}")
            database = PasteDatabase.build(dataset, subset.indices, class_names=self.paste.classes, min_points=self.paste.min_points)
            database.check(subset.indices, dataset=dataset)
            columns = [database.channels.index(name) for name in self.encoder.channels]
            database = replace(database, channels=tuple(self.encoder.channels), feats=database.feats[:, columns])
            transforms += [PasteObjects(database=database, counts=dict(zip(self.paste.classes, self.paste.counts)))]
        return FrameSource(
            dataset,
            transforms + build_transforms(self.augment),
            class_names=self.classes,
            indices=subset.indices,
            channels=self.encoder.channels,
            point_range=self.encoder.point_range,
            memory_mb=self.data.memory_mb,
        )

    def _provenance(self, subset: LabelSubset, evaluation: FrameDataset) -> dict[str, Any]:
        return {
            "stage": "finetune",
            "recipe": type(self).__name__.removesuffix("Recipe"),
            "data": describe_data(self.data),
            "labels": subset.describe(),
            "labelled sequences": list(subset.sequences),
            "label hash": subset.hash,
            "paste database": "none" if not self.paste.classes else f"built from the labelled frames only (hash {subset.hash})",
            "evaluated on": f"{self.data.val_split}: {len(evaluation)} scans",
            "selection": "last weights; no checkpoint was chosen by a validation score",
            "init": self.init or "scratch",
        }


def _detector(model: nn.Module) -> Detector:
    assert isinstance(model, Detector)
    return model


@dataclass(kw_only=True)
class SECONDRecipe(FinetuneRecipe):
    """SECOND: anchors over any LiDAR encoder."""

    detector: SecondConfig = field(default_factory=SecondConfig)

    def build_detector(self) -> Detector:
        return build_detector("second", build_encoder(self.encoder), self.classes, self.detector)


@dataclass(kw_only=True)
class CenterPointRecipe(FinetuneRecipe):
    """CenterPoint: object centres over any LiDAR encoder."""

    detector: CenterPointConfig = field(default_factory=CenterPointConfig)

    def build_detector(self) -> Detector:
        return build_detector("centerpoint", build_encoder(self.encoder), self.classes, self.detector)


__all__ = ["CenterPointRecipe", "FinetuneRecipe", "PasteConfig", "SECONDRecipe"]
