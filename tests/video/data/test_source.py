"""Windows, crops and their streams: a sample is a function of (seed, epoch, index), decoded once, never replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from suite3d.engine.loader import StepBatches, step_loader
from suite3d.engine.order import SampleOrder
from suite3d.image.views import ViewConfig
from suite3d.source import BadSample, Source
from suite3d.video.data import source as module
from suite3d.video.data.lists import VideoItem
from suite3d.video.data.source import ClipSource
from suite3d.write_video import write_video

LENGTHS = (40, 9, 64)


def numbered(count, side=(32, 48)):
    """Frame t is grey of level 3 t + 20: its number can be read off."""
    return np.broadcast_to((np.arange(count) * 3 + 20).astype(np.uint8)[:, None, None, None], (count, *side, 3))


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, count in enumerate(LENGTHS):
        write_video(folder / f"{number}.mp4", numbered(count), crf=1)
    return [VideoItem(folder / f"{number}.mp4", number % 2) for number in range(len(LENGTHS))]


def make(items, **config):
    config = {"frames": 4, "stride": 3, "augment": ViewConfig(size=16, crop="random_resized", flip=0.5)} | config
    return ClipSource(items, **config)


def numbers(frames):
    return [round((float(frame.mean()) - 20) / 3) for frame in frames]


def test_it_is_a_source(items):
    assert isinstance(make(items), Source) and len(make(items)) == 3
    assert make(items).name(2).endswith("/2.mp4")


def test_windows_are_strided_and_start_anywhere_they_fit(items):
    source = make(items)
    starts = set()
    for seed in range(200):
        sample = source.get(0, np.random.default_rng(seed))
        if seed < 20:
            assert numbers(sample.frames) == [int(sample.starts[0]) + 3 * i for i in range(4)]
        starts.add(int(sample.starts[0]))
        assert not sample.short
    assert starts == set(range(40 - 12 + 1))


def test_a_short_video_repeats_its_last_frame_and_is_counted(items):
    source = make(items, stride=4)
    sample = source.get(1, np.random.default_rng(0))
    assert sample.short and numbers(sample.frames) == [0, 4, 8, 8] and sample.starts.tolist() == [0]
    exact = make(items, frames=3, stride=4).get(1, np.random.default_rng(0))
    assert not exact.short and numbers(exact.frames) == [0, 4, 8], "nothing is repeated, so nothing is counted"
    batch = source.collate([sample, source.get(2, np.random.default_rng(0))], [1, 2])
    assert batch.short.tolist() == [True, False]


def test_uniform_windows_are_the_same_every_time_and_span_the_video(items):
    one = make(items, sampling="uniform").get(0, np.random.default_rng(0))
    assert one.starts.tolist() == [14]
    many = make(items, sampling="uniform", windows=3)
    a, b = many.get(0, np.random.default_rng(0)), many.get(0, np.random.default_rng(1))
    assert a.starts.tolist() == b.starts.tolist() == [0, 14, 28]
    assert numbers(a.frames) == [start + 3 * i for start in (0, 14, 28) for i in range(4)]


def test_a_part_of_a_video_is_read_from_its_first_frame(items):
    part = VideoItem(items[2].path, 0, start=30, frames=14)
    for seed in range(10):
        seen = numbers(make([part]).get(0, np.random.default_rng(seed)).frames)
        assert seen[0] >= 30 and seen[-1] <= 43
    rest = make([VideoItem(items[2].path, 0, start=30)])
    assert rest.length(0) == 34
    with pytest.raises(BadSample, match="no frame at or after frame 64"):
        make([VideoItem(items[2].path, 0, start=64)]).length(0)


def test_each_video_is_decoded_once_whatever_is_cut_from_it(items, monkeypatch):
    calls = []
    real = module.read_frames
    monkeypatch.setattr(module, "read_frames", lambda *a, **k: calls.append(a) or real(*a, **k))
    source = make(items, windows=2, repeats=4)
    batch = source.collate([source.get(i, np.random.default_rng(i)) for i in (0, 2)], [7, 8])
    assert len(calls) == 2
    assert batch.boxes.shape == (2, 2, 4, 4) and batch.flips.shape == (2, 2, 4)
    assert len({tuple(box) for box in batch.boxes.reshape(-1, 4).tolist()}) > 12
    for view in (0, 1):
        pixels = batch.pixels(view).unflatten(0, (2, 4))
        levels = (pixels[:, :, 0] * 0.229 + 0.485).mean((3, 4)) * 255
        assert [[round((float(x) - 20) / 3) for x in row] for row in levels[0]] == [[int(batch.starts[0, view]) + 3 * i for i in range(4)]] * 4


def test_a_sample_depends_on_its_generator_alone(items):
    source = make(items, repeats=2, augment=ViewConfig(size=16, jitter=0.8, flip=0.5))
    first = source.get(0, np.random.default_rng(5))
    source.get(2, np.random.default_rng(9))
    again, other = source.get(0, np.random.default_rng(5)), source.get(0, np.random.default_rng(6))
    for name in ("frames", "boxes", "flips", "colors", "starts"):
        assert (getattr(first, name) == getattr(again, name)).all()
    assert (first.boxes != other.boxes).any() and (first.colors != other.colors).any()


def test_workers_ranks_and_resume_see_the_same_clips(items):
    source, order = make(items), SampleOrder(3, 0)

    def seen(first, workers, rank=0, world=1):
        batches = StepBatches(source, order, micro_batch=2 // world, rank=rank, world=world)
        return [loaded.batch for loaded in step_loader(batches, first=first, last=6, workers=workers, pin=False)]

    whole = seen(0, 0)
    for a, b in zip(whole, seen(0, 2)):
        assert a.names == b.names and a.seeds == b.seeds and torch.equal(a.pixels(), b.pixels())
    assert [b.seeds for b in seen(3, 0)] == [b.seeds for b in whole[3:]]
    halves = zip(seen(0, 0, rank=0, world=2), seen(0, 0, rank=1, world=2))
    assert [a.seeds + b.seeds for a, b in halves] == [b.seeds for b in whole]
    assert len({tuple(b.seeds) for b in whole}) == 6, "another epoch, another seed"


def test_broken_videos_are_skipped_and_named(items, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(items[0].path.read_bytes()[:300])
    mixed = [*items, VideoItem(tmp_path / "empty.mp4", 0), VideoItem(tmp_path / "cut.mp4", 0), VideoItem(tmp_path / "gone.mp4", 0)]
    loaded = StepBatches(make(mixed), SampleOrder(6, 0, shuffle=False), micro_batch=6)[0]
    assert len(loaded.batch) == 3
    assert {Path(path).name for path, _ in loaded.skipped} == {"empty.mp4", "cut.mp4", "gone.mp4"}


def test_videos_of_different_sizes_share_a_batch(items, tmp_path):
    write_video(tmp_path / "tall.mp4", numbered(20, (64, 32)), crf=1)
    source = make([items[0], VideoItem(tmp_path / "tall.mp4", None)])
    batch = source.collate([source.get(i, np.random.default_rng(i)) for i in (0, 1)], [1, 2])
    assert isinstance(batch.frames, list) and batch.labels.tolist() == [0, -1]
    assert batch.pixels().shape == (2, 3, 4, 16, 16)
    assert batch.to("cpu").names == batch.names


def test_nothing_to_read_is_refused(items):
    with pytest.raises(ValueError, match="at least one video"):
        make([])
    with pytest.raises(ValueError, match="positive frames"):
        make(items, stride=0)
