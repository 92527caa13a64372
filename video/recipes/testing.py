"""Multi-clip, multi-crop testing of a classifier."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from suite3d.engine.once import each_once
from suite3d.evaluate.scores import classification_scores
from suite3d.image.views import ViewConfig
from suite3d.video.data.lists import VideoItem
from suite3d.video.data.segments import SegmentSource
from suite3d.video.data.source import ClipSource
from suite3d.video.recipes.data import VideoDataConfig
from suite3d.video.tasks.classify import ClipClassifier

Frames = Literal["dense", "segments"]


@dataclass(kw_only=True)
class TestingConfig:
    """Views of a test video.

    Attributes:
        clips: clips of each video, spread evenly over it (5 on Kinetics, 2 on Something-Something).
        crops: squares of each clip: 3 along the long side, or 1 in the middle.
        batch: videos at a time.
        workers: loader processes; -1 = one less than the cores, at most 8.
        held_out: share of each class's videos to test on where the data have no test split.
    """

    clips: int = 5
    crops: Literal[1, 3] = 3
    batch: int = 4
    workers: int = 0
    held_out: float = 0.2

    def __post_init__(self) -> None:
        if min(self.clips, self.batch) < 1:
            raise ValueError(f"test.clips and test.batch expected at least 1, got {self.clips} and {self.batch}")


def make_source(
    items: list[VideoItem],
    data: VideoDataConfig,
    augment: ViewConfig,
    *,
    frames: Frames,
    test: bool = False,
    windows: int = 1,
    repeats: int = 1,
) -> ClipSource:
    """Clips of the items: random and augmented for training, evenly spread and plain (1 or 3 crops of every window) for testing."""
    if test:
        augment = replace(augment, crop="three" if repeats == 3 else "center", flip=0.0, jitter=0.0, gray=0.0)
    source = SegmentSource if frames == "segments" else ClipSource
    return source(
        items,
        frames=data.frames,
        stride=data.stride,
        augment=augment,
        windows=windows,
        repeats=repeats,
        sampling="uniform" if test else "random",
        reader=data.reader,
    )


def score_classifier(
    model: ClipClassifier,
    items: list[VideoItem],
    data: VideoDataConfig,
    augment: ViewConfig,
    config: TestingConfig,
    *,
    frames: Frames,
    device: torch.device,
) -> dict[str, Any]:
    """Scores with their protocol.

    Returns:
        ``{"metrics": {"top-1", "top-5", "mean-class"}, "primary", "table", "protocol", "videos", "skipped"}``, metrics in percent.

    Raises:
        ValueError: no test video could be read.
    """
    source = make_source(items, data, augment, frames=frames, test=True, windows=config.clips, repeats=config.crops)
    model.eval()
    probabilities, labels, skipped = [], [], []
    for part in each_once(source, range(len(source)), batch_size=config.batch, workers=loader_workers(config.workers)):
        skipped += part.skipped
        if part.batch is not None:
            batch = part.batch.to(device)
            probabilities.append(model.predict(batch).cpu())
            labels.append(batch.labels.cpu())
    if not labels:
        raise ValueError(f"no test video could be read; the first problems: {skipped[:3]}")
    metrics = classification_scores(torch.cat(probabilities), torch.cat(labels))
    seen = sum(map(len, labels))
    protocol = {
        "views": f"{config.clips} clips x {config.crops} crops, mean of the softmax",
        "frames": describe_frames(data, frames),
        "crop": f"short side to {augment.size}, " + ("three squares along the long side" if config.crops == 3 else "the middle square"),
        "scored": f"{seen} of {len(items)} test videos, {len(model.class_names)} classes",
    }
    rows = [[name, f"{value:.2f}"] for name, value in metrics.items()]
    table = {"columns": [f"{seen} videos, {config.clips} x {config.crops} views", "%"], "rows": rows}
    return {"metrics": metrics, "primary": "top-1", "table": table, "protocol": protocol, "videos": seen, "skipped": skipped}


def describe_frames(data: VideoDataConfig, frames: Frames) -> str:
    """How the frames of a clip lie in the video, in words."""
    if frames == "segments":
        return f"{data.frames} frames, one of each of {data.frames} equal parts of the video"
    return f"{data.frames} frames, {data.stride} apart, clips evenly spread over the video"


def loader_workers(asked: int) -> int:
    """Loader processes: -1 = one less than the cores, at most 8."""
    return max(0, min((os.cpu_count() or 1) - 1, 8)) if asked < 0 else asked
