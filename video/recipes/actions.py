"""Fine-tuning recipe for action detection on key frames with given persons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from suite3d.config import ConfigError
from suite3d.engine.budget import set_budget
from suite3d.engine.once import each_once
from suite3d.engine.task import RunConfig, Task, TrainConfig
from suite3d.evaluate.frame_map import FrameBoxes, frame_map
from suite3d.image.views import ViewConfig
from suite3d.labels import LabelSubset, choose_subset
from suite3d.nn.vit import VisionTransformer
from suite3d.video.data.actions import ActionSource
from suite3d.video.data.ava import Key, KeyFrame, read_ava, read_excluded, read_label_map, write_results
from suite3d.video.data.motion.actors import LABELS, ActorsConfig, actors_folder
from suite3d.video.interop import initialise_encoder
from suite3d.video.recipes.encoder import VideoEncoderConfig
from suite3d.video.recipes.frozen_encoder import finetuned_encoder
from suite3d.video.recipes.testing import loader_workers
from suite3d.video.tasks.actions import ActionConfig, ActionDetector

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(kw_only=True)
class ActionDataConfig:
    """Videos with AVA's annotation files.

    Attributes:
        root: folder of the videos, named as in the files; empty = the procedural actors set.
        annotations, val_annotations: csv of boxes with actions.
        label_map: names of the actions that are trained and scored.
        excluded, val_excluded: csv of key frames to leave out.
        persons: csv of detected persons to test on; empty = the annotated boxes (say so when you report the number).
        min_score: detected persons below it are not used.
        start_second: second of the annotations at which the files begin (900 for AVA's trimmed videos).
        frames, stride: of a clip, with the key frame in the middle.
        reader: see :class:`suite3d.video.recipes.data.VideoDataConfig`.
        actors: the procedural set.
    """

    root: Path = Path("")
    annotations: Path = Path("")
    val_annotations: Path = Path("")
    label_map: Path = Path("")
    excluded: Path = Path("")
    val_excluded: Path = Path("")
    persons: Path = Path("")
    min_score: float = 0.8
    start_second: float = 0.0
    frames: int = 16
    stride: int = 4
    reader: str = "auto"
    actors: ActorsConfig = field(default_factory=ActorsConfig)


@dataclass(kw_only=True)
class ActionTestConfig:
    """Testing. ``iou`` of a match; ``batch`` key frames at a time; ``workers``: loader processes, -1 = one less than the cores, at most 8."""

    iou: float = 0.5
    batch: int = 8
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class ActionData:
    """What the files hold: key frames, files by video name, action names by id."""

    train: list[KeyFrame]
    val: list[KeyFrame]
    persons: list[KeyFrame]
    videos: dict[str, Path]
    actions: dict[int, str]
    described: str


@dataclass(kw_only=True)
class VideoActionsRecipe:
    """Action detection with given persons, in the way of AVA.

    Attributes:
        data: videos and annotations.
        augment: crops. ``whole`` squeezes the frame into the square, so that no person is lost; the published recipes crop a part of it.
        encoder, head: the network.
        train, base_lr: the loop; the rate is for a batch of 256 clips, 0 = ``train.optim.lr`` as it is.
        test: testing.
        init, like, init_minimum, twin, seeds, jobs, label_draw: as in :class:`suite3d.video.recipes.finetune.VideoClassifyRecipe`.
        labels: share of the annotated training videos, nested and hashed.
    """

    data: ActionDataConfig = field(default_factory=ActionDataConfig)
    augment: ViewConfig = field(default_factory=lambda: ViewConfig(crop="whole"))
    encoder: VideoEncoderConfig = field(default_factory=VideoEncoderConfig)
    head: ActionConfig = field(default_factory=ActionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    base_lr: float = 5e-4
    test: ActionTestConfig = field(default_factory=ActionTestConfig)
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
        """Model, annotated clips and scoring. Raises ConfigError for files that are missing or do not fit together."""
        data = read_action_data(self.data)
        size = self.augment.size
        encoder = finetuned_encoder(self.encoder, self.like or self.init, (self.data.frames, size, size), keep_norm=True)
        if not isinstance(encoder, VisionTransformer):
            raise ConfigError(f"action detection needs a vision transformer, {self.like or self.init} holds a {type(encoder).__name__}")
        report = initialise_encoder(encoder, Path(self.init), minimum=self.init_minimum) if self.init else None
        model = ActionDetector(encoder, list(data.actions.values()), self.head)
        subset = self._subset(data)
        source = self._source([data.train[index] for index in subset.indices], data, train=True)
        budget = set_budget(self.train, base_lr=self.base_lr, repeats=1, samples=len(source), kind="videos")
        persons = "annotated" if self.data.persons == Path("") else f"{self.data.persons.name}, score >= {self.data.min_score:g}"
        provenance = {
            "stage": "finetune",
            "recipe": type(self).__name__.removesuffix("Recipe"),
            "modality": "video",
            "data": data.described,
            "labels": subset.describe(),
            "label hash": subset.hash,
            "evaluated on": f"{len(data.val)} key frames; persons: {persons}",
            "selection": "last weights; no checkpoint was chosen by a test score",
            "init": self.init or "scratch",
            "samples_seen": budget.samples_seen,
            "effective_epochs": round(budget.effective_epochs, 2),
            "lr_abs": budget.lr_abs,
        }
        return Task(
            model=model,
            train=source,
            provenance=provenance,
            encoder_config=asdict(encoder.config),
            evaluate=lambda model, device, path: self._score(model, data, device, path, persons),
            load_report=report,
        )

    def _subset(self, data: ActionData) -> LabelSubset:
        keys = data.train
        names = [f"{key.video}@{key.second:g}" for key in keys]
        indices = [index for index, key in enumerate(keys) if key.video in data.videos]
        try:
            return choose_subset(
                names, [key.video for key in keys], self.labels, indices=indices, draw=self.label_draw, units=("videos", "key frames")
            )
        except ValueError as error:
            raise ConfigError(f"labels: {error}") from error

    def _source(self, keys: Sequence[KeyFrame], data: ActionData, *, train: bool) -> ActionSource:
        augment = self.augment if train else replace(self.augment, crop="whole", flip=0.0, jitter=0.0, gray=0.0)
        try:
            return ActionSource(
                keys,
                data.videos,
                list(data.actions),
                frames=self.data.frames,
                stride=self.data.stride,
                augment=augment,
                start_second=self.data.start_second,
                train=train,
                reader=self.data.reader,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _score(self, model: nn.Module, data: ActionData, device: torch.device, path: Path, persons: str) -> dict[str, Any]:
        """Frame mAP with its protocol; detections go to ``ava_results.csv``."""
        assert isinstance(model, ActionDetector)
        source = self._source(data.persons, data, train=False)
        found, skipped = detect(model, source, list(data.actions), batch=self.test.batch, workers=self.test.workers, device=device)
        write_results(path / "ava_results.csv", found)
        truth = {key.key: key.rows() for key in data.val if key.video in data.videos}
        result = frame_map(truth, found, classes=list(data.actions), iou=self.test.iou)
        metrics = {f"frame mAP@{self.test.iou:g}": 100 * result.mean}
        rows = [[data.actions[action], f"{100 * value:.2f}", str(result.truths[action])] for action, value in result.average_precision.items()]
        rows = [[next(iter(metrics)), f"{100 * result.mean:.2f}", str(sum(result.truths.values()))], *(row for row in rows if row[1] != "nan")]
        protocol = {
            "metric": f"mean over the actions that occur of the average precision of boxes, IoU {self.test.iou:g}, 50 boxes a frame (AVA)",
            "persons": persons,
            "frames": f"{self.data.frames} frames, {self.data.stride} apart, key frame in the middle",
            "crop": f"whole frame squeezed to {self.augment.size} x {self.augment.size}, one view",
            "scored": f"{len(truth)} of {len(data.val)} key frames",
        }
        return {
            "metrics": metrics,
            "primary": next(iter(metrics)),
            "table": {"columns": ["action", "AP %", "true boxes"], "rows": rows},
            "protocol": protocol,
            "skipped": skipped,
            "result files": str(path / "ava_results.csv"),
        }


def detect(
    model: ActionDetector, source: ActionSource, actions: Sequence[int], *, batch: int, workers: int, device: torch.device
) -> tuple[dict[Key, FrameBoxes], list[str]]:
    """Every action of every person of every key frame, scored by its probability times the person's score; and what could not be read."""
    model.eval()
    found: dict[Key, FrameBoxes] = {}
    skipped: list[str] = []
    for part in each_once(source, range(len(source)), batch_size=batch, workers=loader_workers(workers)):
        skipped += part.skipped
        if part.batch is None:
            continue
        scores = model.predict(part.batch.to(device)).double().cpu().numpy()  # [M, K]
        index, persons = part.batch.index.numpy(), part.batch.persons.numpy()
        for place, row in enumerate(part.rows):
            mine, key = index == place, source.keys[row]
            boxes, sure = key.boxes[persons[mine]], key.scores[persons[mine]] if len(key.scores) else np.ones(int(mine.sum()))
            found[key.key] = FrameBoxes(
                boxes=np.repeat(boxes, len(actions), axis=0),
                classes=np.tile(np.array(actions, dtype=np.int64), len(boxes)),
                scores=(scores[mine] * sure[:, None]).reshape(-1),
            )
    return found, skipped


def read_action_data(config: ActionDataConfig) -> ActionData:
    """The videos and annotations of a configuration, procedural ones where it names none. Raises ConfigError."""
    try:
        if config.root == Path(""):
            folder = actors_folder(config.actors)
            files = replace(config, annotations=folder / "train.csv", val_annotations=folder / "val.csv", label_map=folder / LABELS)
            return _read(files, folder / "videos", f"actors set (synthetic, seed {config.actors.seed})")
        if Path("") in (config.annotations, config.val_annotations, config.label_map):
            raise ConfigError("action detection needs data.annotations, data.val_annotations and data.label_map beside data.root")
        return _read(config, config.root, str(config.root))
    except (ValueError, OSError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


def _read(config: ActionDataConfig, root: Path, described: str) -> ActionData:
    videos = {path.stem: path for path in sorted(root.rglob("*")) if path.suffix.lower() in VIDEO_SUFFIXES}
    train = read_ava(config.annotations, excluded=_excluded(config.excluded))
    val = read_ava(config.val_annotations, excluded=_excluded(config.val_excluded))
    shared = {key.key for key in train} & {key.key for key in val}
    if shared:
        raise ConfigError(f"{len(shared)} key frames are in both annotation files, e.g. {sorted(shared)[0]}")
    persons = val
    if config.persons != Path(""):
        persons = [_sure(key, config.min_score) for key in read_ava(config.persons, excluded=_excluded(config.val_excluded))]
    missing = {key.video for key in (*train, *val)} - videos.keys()
    if missing:
        described += f"; {len(missing)} annotated videos are missing, e.g. {sorted(missing)[0]}"
        print(described, flush=True)
    return ActionData(train=train, val=val, persons=persons, videos=videos, actions=read_label_map(config.label_map), described=described)


def _excluded(path: Path) -> list[Key]:
    return [] if path == Path("") else read_excluded(path)


def _sure(key: KeyFrame, minimum: float) -> KeyFrame:
    """The detected persons that a detector is sure of, without labels."""
    kept = key.scores >= minimum
    boxes = key.boxes[kept]
    return replace(key, boxes=boxes, scores=key.scores[kept], actions=[set() for _ in boxes])
