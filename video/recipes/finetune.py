"""Fine-tuning recipes for video classification."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from suite3d.config import ConfigError
from suite3d.engine.budget import Budget, set_budget
from suite3d.engine.task import RunConfig, Task, TrainConfig
from suite3d.image.views import ViewConfig
from suite3d.labels import LabelSubset
from suite3d.nn.vit import VisionTransformer
from suite3d.video.interop import initialise_encoder
from suite3d.video.recipes.data import VideoDataConfig, describe_data
from suite3d.video.recipes.encoder import VideoEncoderConfig
from suite3d.video.recipes.frozen_encoder import finetuned_encoder
from suite3d.video.recipes.labelled import LabelledVideos, labelled_part, labelled_videos
from suite3d.video.recipes.testing import Frames, TestingConfig, make_source, score_classifier
from suite3d.video.tasks.classify import ClassifierConfig, ClipClassifier


@dataclass(kw_only=True)
class VideoClassifyRecipe:
    """Action classification.

    Attributes:
        data: the videos; ``repeats`` is repeated augmentation: crops of every decoded clip, each recoloured and mixed by itself.
        frames: ``dense`` (frames ``data.stride`` apart, Kinetics) or ``segments`` (one of each of T equal parts, Something-Something).
        augment: crops. ``flip`` mirrors left and right: 0 where the classes tell them apart.
        encoder: the part that is fine-tuned, from scratch; with ``init`` or ``like`` only its ``drop_path`` and ``checkpoint`` count.
        classifier: head and what training does to the clips.
        train: the loop; ``optim.layer_decay`` lets early layers learn more slowly.
        base_lr: learning rate for a batch of 256 clips; 0 = ``train.optim.lr`` as it is.
        test: views of a test video.
        init: run directory, ``encoder.safetensors`` or another project's file to start the encoder from; empty = from scratch.
        like: run or file whose network is built, without its weights; empty = that of ``init``.
        init_minimum: share of the encoder's parameters that must come in, else the run refuses to start.
        twin: ``scratch`` also trains the same model without ``init`` on the same data, order and steps.
        seeds: runs per arm, with seeds ``train.seed``, ``train.seed + 1``, ...
        jobs: of those runs, how many at a time.
        labels: share of each class's training videos, nested and hashed: ``5%``, ``0.05``, ``100%``.
        label_draw: which of the independent draws.
    """

    data: VideoDataConfig = field(default_factory=VideoDataConfig)
    frames: Frames = "dense"
    augment: ViewConfig = field(default_factory=ViewConfig)
    encoder: VideoEncoderConfig = field(default_factory=VideoEncoderConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    base_lr: float = 5e-4
    test: TestingConfig = field(default_factory=TestingConfig)
    run: RunConfig = field(default_factory=RunConfig)
    init: str = ""
    like: str = ""
    init_minimum: float = 0.9
    twin: Literal["none", "scratch"] = "none"
    seeds: int = 1
    jobs: int = 1
    labels: str = "100%"
    label_draw: int = 0

    def task(self) -> Task:
        """Model, labelled clips and testing. Raises ConfigError when the data carry no labels or the sizes do not fit."""
        videos = labelled_videos(self.data, held_out=self.test.held_out)
        items, subset = labelled_part(videos, self.labels, draw=self.label_draw)
        source = make_source(items, self.data, self.augment, frames=self.frames, repeats=self.data.repeats)
        model = self.build_model(videos.classes)
        report = initialise_encoder(model.encoder, Path(self.init), minimum=self.init_minimum) if self.init else None
        budget = set_budget(self.train, base_lr=self.base_lr, repeats=self.data.repeats, samples=len(items), kind="videos")
        return Task(
            model=model,
            train=source,
            provenance=self._provenance(videos, subset, budget),
            encoder_config=asdict(model.encoder.config) if isinstance(model.encoder, VisionTransformer) else {},
            evaluate=lambda model, device, path: score_classifier(
                _classifier(model), videos.test, self.data, self.augment, self.test, frames=self.frames, device=device
            ),
            load_report=report,
        )

    def build_model(self, classes: list[str]) -> ClipClassifier:
        """A fresh classifier. Its encoder has no final norm: the head normalises after pooling."""
        size = self.augment.size
        encoder = finetuned_encoder(self.encoder, self.like or self.init, (self.data.frames, size, size), keep_norm=False)
        try:
            return ClipClassifier(encoder, classes, self.classifier)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _provenance(self, videos: LabelledVideos, subset: LabelSubset, budget: Budget) -> dict[str, Any]:
        return {
            "stage": "finetune",
            "recipe": type(self).__name__.removesuffix("Recipe"),
            "modality": "video",
            "data": describe_data(self.data),
            "labels": subset.describe(),
            "label hash": subset.hash,
            "classes": len(videos.classes),
            "evaluated on": f"{len(videos.test)} videos; {videos.how}",
            "selection": "last weights; no checkpoint was chosen by a test score",
            "init": self.init or "scratch",
            "samples_seen": budget.samples_seen,
            "effective_epochs": round(budget.effective_epochs, 2),
            "lr_abs": budget.lr_abs,
        }


def _classifier(model: nn.Module) -> ClipClassifier:
    assert isinstance(model, ClipClassifier)
    return model
