"""Clips from videos: which frames, which crops; decoded once, cropped as often as asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from suite3d.image.views import LUMA, ViewConfig, draw_box, draw_color
from suite3d.source import BadSample
from suite3d.video.data.batch import ClipBatch
from suite3d.video.data.lists import VideoItem
from suite3d.video.data.reader import count_frames, read_frames

Sampling = Literal["random", "uniform"]


@dataclass(kw_only=True)
class ClipSample:
    """One decoded sample; see :class:`suite3d.video.data.batch.ClipBatch` for the fields."""

    frames: NDArray[np.uint8]
    boxes: NDArray[np.int64]
    flips: NDArray[np.bool_]
    colors: NDArray[np.float32]
    label: int
    name: str
    starts: NDArray[np.int64]
    short: bool


class ClipSource:
    """Random or evenly spread windows of videos. A :class:`suite3d.source.Source`.

    A window of T frames with stride s covers T * s frames of the video and starts anywhere it fits (VideoMAE); where the video is shorter it
    starts at the first frame and repeats the last one, and the sample is counted as short.

    Args:
        items: the videos.
        frames: T. stride: s.
        augment: crops and colours.
        windows: windows of each sample, read in one pass: two random ones for a method that compares them, several even ones for testing.
        repeats: crops of every window.
        sampling: ``random``, or ``uniform``: starts spread evenly over the video, a single one in the middle.
        reader: see :func:`suite3d.video.data.reader.read_frames`.

    Raises:
        ValueError: no videos, sizes below 1, or a style for pictures.
    """

    def __init__(
        self,
        items: Sequence[VideoItem],
        *,
        frames: int,
        stride: int,
        augment: ViewConfig,
        windows: int = 1,
        repeats: int = 1,
        sampling: Sampling = "random",
        reader: str = "auto",
    ) -> None:
        if not items:
            raise ValueError("expected at least one video, got none")
        if min(frames, stride, windows, repeats) < 1:
            raise ValueError(f"expected positive frames, stride, windows and repeats, got {frames}, {stride}, {windows}, {repeats}")
        if augment.style.probability > 0:
            raise ValueError(f"style is of pictures, not of clips: expected style.probability=0, got {augment.style.probability}")
        self.items, self.frames, self.stride, self.augment = list(items), frames, stride, augment
        self.windows, self.repeats, self.sampling, self.reader = windows, repeats, sampling, reader
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        path = self.items[index].path
        return f"{path.parent.name}/{path.name}"

    def length(self, index: int) -> int:
        """Frames of a video: from the list, else from the file, asked once in each worker. Raises BadSample."""
        if index not in self._lengths:
            item = self.items[index]
            count = item.frames
            if count is None:
                count = 1 if item.kind == "image" else count_frames(item.path, reader=self.reader) - item.start
            if count < 1:
                raise BadSample(item.path, f"no frame at or after frame {item.start}")
            self._lengths[index] = count
        return self._lengths[index]

    def get(self, index: int, rng: np.random.Generator) -> ClipSample:
        """Decode the windows of video ``index`` and draw their crops. Raises :class:`suite3d.source.BadSample`."""
        item = self.items[index]
        count = self.length(index)
        times = self.draw_times(count, rng)
        frames = read_frames(item.path, (item.start + times).reshape(-1).tolist(), reader=self.reader)
        height, width = frames.shape[1:3]
        shape = (self.windows, self.repeats)
        boxes = [draw_box(self.augment, height, width, rng, place=place % self.repeats) for place in range(self.windows * self.repeats)]
        colors = [draw_color(self.augment, gray, rng) for gray in self._grays(frames) for _ in range(self.repeats)]
        return ClipSample(
            frames=frames,
            boxes=np.array(boxes, dtype=np.int64).reshape(*shape, 4),
            flips=rng.random(shape) < self.augment.flip,
            colors=np.stack(colors).reshape(*shape, 3, 4),
            label=-1 if item.label is None else item.label,
            name=self.name(index),
            starts=times[:, 0],
            short=count < self.span,
        )

    @property
    def span(self) -> int:
        """Frames a video needs so that none is repeated."""
        return (self.frames - 1) * self.stride + 1

    def draw_times(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """``(windows, frames)`` int64 frame numbers in a video of ``count`` frames."""
        return np.minimum(self.draw_starts(count, rng)[:, None] + np.arange(self.frames) * self.stride, count - 1)

    def draw_starts(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """``(windows,)`` first frames in a video of ``count`` frames."""
        room = max(count - self.frames * self.stride, 0)
        if self.sampling == "random":
            return rng.integers(room + 1, size=self.windows)
        share = np.array([0.5]) if self.windows == 1 else np.linspace(0, 1, self.windows)
        return np.floor(room * share + 0.5).astype(np.int64)

    def _grays(self, frames: NDArray[np.uint8]) -> list[float]:
        """Mean grey of each window, from a few pixels; only contrast needs it."""
        if self.augment.jitter <= 0:
            return [0.5] * self.windows
        windows = frames[:, ::8, ::8].reshape(self.windows, -1, 3)
        return [float(window.mean(axis=0) @ LUMA / 255) for window in windows]

    def collate(self, samples: list[ClipSample], seeds: list[int]) -> ClipBatch:
        clips = [torch.from_numpy(sample.frames) for sample in samples]
        same = all(clip.shape == clips[0].shape for clip in clips)
        plain = self.augment.jitter <= 0 and self.augment.gray <= 0
        join = lambda name: torch.from_numpy(np.stack([getattr(sample, name) for sample in samples]))  # noqa: E731
        return ClipBatch(
            frames=torch.stack(clips) if same else clips,
            boxes=join("boxes"),
            flips=join("flips"),
            colors=None if plain else join("colors"),
            labels=torch.tensor([sample.label for sample in samples]),
            names=[sample.name for sample in samples],
            seeds=list(seeds),
            starts=join("starts"),
            short=torch.tensor([sample.short for sample in samples]),
            clip=(self.frames, self.augment.size),
            mean=self.augment.mean,
            std=self.augment.std,
        )
