"""Clips around key frames with persons in them, cropped and mirrored together with their boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suite3d.image.views import ViewConfig, draw_box, draw_color
from suite3d.source import BadSample
from suite3d.video.data.ava import KeyFrame
from suite3d.video.data.batch import ClipBatch
from suite3d.video.data.lists import VideoItem
from suite3d.video.data.reader import probe_video, read_frames
from suite3d.video.data.source import ClipSample, ClipSource

MIN_SHARE = 0.1
"""A person of whose box less than this share is left in a training crop is not trained on."""


@dataclass(kw_only=True)
class ActionBatch:
    """Clips and the persons in their key frames.

    Attributes:
        clips: one window and one crop each.
        boxes: ``(M, 4)`` float32 x1, y1, x2, y2 as shares of the crop.
        index: ``(M,)`` int64 clip of each person.
        targets: ``(M, K)`` float32, 1 where the person does the action.
        keys: (video, second) of each clip. persons: ``(M,)`` int64 row of each person in its key frame.
    """

    clips: ClipBatch
    boxes: Tensor
    index: Tensor
    targets: Tensor
    keys: list[tuple[str, float]]
    persons: Tensor

    @property
    def names(self) -> list[str]:
        return self.clips.names

    @property
    def seeds(self) -> list[int]:
        return self.clips.seeds

    def __len__(self) -> int:
        return len(self.clips)

    def to(self, device: torch.device | str) -> ActionBatch:
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("boxes", "index", "targets", "persons")}
        return replace(self, clips=self.clips.to(device), **moved)

    def pin_memory(self) -> ActionBatch:
        moved = {name: getattr(self, name).pin_memory() for name in ("boxes", "index", "targets", "persons")}
        return replace(self, clips=self.clips.pin_memory(), **moved)


@dataclass(kw_only=True)
class ActionSample:
    """A decoded clip with its persons; see :class:`ActionBatch`."""

    clip: ClipSample
    boxes: NDArray[np.float32]
    targets: NDArray[np.float32]
    persons: NDArray[np.int64]
    key: tuple[str, float]


class ActionSource:
    """One sample a key frame: T frames with stride s, the key frame in the middle. A :class:`suite3d.source.Source`.

    Beyond the ends of the video its first or last frame stands in. The key frame's number is its second times the mean frame rate.

    Args:
        keys: key frames with persons.
        videos: file of each video name.
        actions: action ids in the order of the classifier's outputs; others are ignored.
        frames: T. stride: s.
        augment: crops; the same for all frames and for the boxes.
        start_second: second of the annotations at which the files begin (AVA's trimmed videos begin at 900).
        train: drop persons that a crop has cut away.
        reader: see :func:`suite3d.video.data.reader.read_frames`.

    Raises:
        ValueError: no key frame of any of the videos.
    """

    def __init__(
        self,
        keys: Sequence[KeyFrame],
        videos: Mapping[str, Path],
        actions: Sequence[int],
        *,
        frames: int,
        stride: int,
        augment: ViewConfig,
        start_second: float = 0.0,
        train: bool = False,
        reader: str = "auto",
    ) -> None:
        self.keys = [key for key in keys if key.video in videos and len(key.boxes)]
        if not self.keys:
            named = sorted({key.video for key in keys})[:3]
            raise ValueError(f"none of the {len(keys)} key frames belongs to a video that is there; annotated are e.g. {named}")
        self.column = {action: column for column, action in enumerate(actions)}
        items = [VideoItem(videos[key.video], 0) for key in self.keys]
        self.clips = ClipSource(items, frames=frames, stride=stride, augment=augment, reader=reader)
        self.start_second, self.train = start_second, train

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        key = self.keys[index]
        return f"{key.video}@{key.second:g}"

    def get(self, index: int, rng: np.random.Generator) -> ActionSample:
        """Decode the clip around key frame ``index`` and crop it with its boxes. Raises :class:`suite3d.source.BadSample`."""
        key, config, path = self.keys[index], self.clips.augment, self.clips.items[index].path
        times = self._times(key, path)
        frames = read_frames(path, times.tolist(), reader=self.clips.reader)
        height, width = frames.shape[1:3]
        crop = draw_box(config, height, width, rng)
        flip = bool(rng.random() < config.flip)
        clip = ClipSample(
            frames=frames,
            boxes=np.array(crop, dtype=np.int64).reshape(1, 1, 4),
            flips=np.array([[flip]]),
            colors=draw_color(config, 0.5, rng).reshape(1, 1, 3, 4),
            label=0,
            name=self.name(index),
            starts=times[:1],
            short=bool((np.diff(times) == 0).any()),
        )
        boxes, left = crop_boxes(key.boxes, crop, (height, width), flip=flip)
        persons = np.flatnonzero(left >= MIN_SHARE) if self.train else np.arange(len(boxes))
        return ActionSample(clip=clip, boxes=boxes[persons].astype(np.float32), targets=self._targets(key)[persons], persons=persons, key=key.key)

    def _times(self, key: KeyFrame, path: Path) -> NDArray[np.int64]:
        """``(T,)`` frame numbers."""
        info = probe_video(path, reader=self.clips.reader)
        if info.fps <= 0:
            raise BadSample(path, "has no frame rate, so the key frame's second means nothing")
        middle = round((key.second - self.start_second) * info.fps)
        if not 0 <= middle <= info.frames:
            raise BadSample(
                path, f"second {key.second:g} lies outside the video of {info.duration:.1f} s that begins at second {self.start_second:g}"
            )
        length, stride = self.clips.frames, self.clips.stride
        times: NDArray[np.int64] = np.clip(middle + (np.arange(length) - length // 2) * stride, 0, info.frames - 1)
        return times

    def _targets(self, key: KeyFrame) -> NDArray[np.float32]:
        targets = np.zeros((len(key.boxes), len(self.column)), dtype=np.float32)
        for person, actions in enumerate(key.actions):
            targets[person, [self.column[action] for action in actions if action in self.column]] = 1
        return targets

    def collate(self, samples: list[ActionSample], seeds: list[int]) -> ActionBatch:
        return ActionBatch(
            clips=self.clips.collate([sample.clip for sample in samples], seeds),
            boxes=torch.from_numpy(np.concatenate([sample.boxes for sample in samples])),
            index=torch.tensor([place for place, sample in enumerate(samples) for _ in sample.boxes], dtype=torch.int64),
            targets=torch.from_numpy(np.concatenate([sample.targets for sample in samples])),
            keys=[sample.key for sample in samples],
            persons=torch.from_numpy(np.concatenate([sample.persons for sample in samples])),
        )


def crop_boxes(
    boxes: NDArray[np.float64], crop: tuple[int, int, int, int], size: tuple[int, int], *, flip: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes as shares of the picture -> as shares of a crop, cut at its border, and the share of each box's area that is left.

    Args:
        boxes: ``(n, 4)`` x1, y1, x2, y2. crop: (top, left, height, width) in pixels. size: (height, width) of the picture.
        flip: mirror left and right.
    """
    top, left, tall, wide = crop
    moved = (boxes * [size[1], size[0], size[1], size[0]] - [left, top, left, top]) / [wide, tall, wide, tall]
    if flip:
        moved = np.stack([1 - moved[:, 2], moved[:, 1], 1 - moved[:, 0], moved[:, 3]], axis=1)
    cut = np.clip(moved, 0, 1)
    area = lambda b: np.prod(b[:, 2:] - b[:, :2], axis=1)  # noqa: E731
    return cut, area(cut) / np.maximum(area(moved), 1e-12)
