"""Frames kept in memory: read once, unchanged, never beyond the budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from suite3d.pointcloud.data.memory import MEGABYTE, FrameMemory
from suite3d.pointcloud.data.source import FrameSource
from suite3d.pointcloud.data.street import StreetConfig, StreetWorld
from suite3d.pointcloud.data.transforms import RandomFlip
from suite3d.source import BadSample


class Counting(StreetWorld):
    """The street world, remembering which frames were asked of it."""

    def __init__(self) -> None:
        super().__init__(StreetConfig(train_sequences=2, frames=3, beams=8, azimuths=64), "train")
        self.asked: list[int] = []

    def frame(self, index: int):
        self.asked.append(index)
        if index == 5:
            raise BadSample("five", "broken")
        return super().frame(index)


def test_a_kept_frame_is_read_once_and_is_the_same_scan():
    dataset = Counting()
    memory = FrameMemory(dataset, 64)
    first, again = memory.read(1), memory.read(1)
    assert dataset.asked == [1] and again is first
    fresh = StreetWorld.frame(dataset, 1)
    assert np.array_equal(again.xyz, fresh.xyz) and np.array_equal(again.feats, fresh.feats)


def test_the_budget_holds_and_what_came_first_stays():
    dataset = Counting()
    memory = FrameMemory(dataset, 64)
    memory.read(0)
    size = 64 * MEGABYTE - memory.free
    assert size >= memory.read(0).xyz.nbytes
    memory.free = size // 2  # no room for a second frame of that size
    for _ in range(2):
        memory.read(0)
        memory.read(1)
    assert dataset.asked == [0, 1, 1] and list(memory.kept) == [0] and memory.free >= 0


def test_without_a_budget_nothing_is_kept():
    dataset = Counting()
    memory = FrameMemory(dataset)
    for _ in range(2):
        memory.read(0)
    assert dataset.asked == [0, 0] and not memory.kept
    with pytest.raises(ValueError, match="memory_mb: expected 0"):
        FrameMemory(dataset, -1)


def test_a_broken_frame_is_tried_again():
    memory = FrameMemory(Counting(), 64)
    for _ in range(2):
        with pytest.raises(BadSample, match="broken"):
            memory.read(5)


def test_writing_into_a_kept_frame_is_an_error():
    frame = FrameMemory(Counting(), 64).read(0)
    with pytest.raises(ValueError, match="read-only"):
        frame.xyz[0] = 0


def test_augmented_samples_are_the_same_with_and_without_memory():
    def samples(memory_mb: int) -> list[np.ndarray]:
        source = FrameSource(Counting(), [RandomFlip(axis="x", probability=1.0)], memory_mb=memory_mb)
        return [source.get(index, np.random.default_rng(index)).xyz for _ in range(2) for index in (0, 1, 2)]

    for kept, read in zip(samples(64), samples(0), strict=True):
        assert np.array_equal(kept, read)


def test_a_frame_without_meta_arrays_counts_its_own_arrays_only():
    dataset = Counting()
    frame = replace(StreetWorld.frame(dataset, 0), meta={})
    dataset.frame = lambda index: frame  # type: ignore[method-assign]
    memory = FrameMemory(dataset, 1)
    memory.read(0)
    assert MEGABYTE - memory.free == sum(value.nbytes for value in vars(frame).values() if isinstance(value, np.ndarray))
