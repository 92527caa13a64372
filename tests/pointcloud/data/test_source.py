from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from suite3d.pointcloud.data.source import FrameSource, PairSource
from suite3d.pointcloud.data.transforms import PointDropout, RandomFlip, RandomScale, RandomShift, RandomYaw, ShufflePoints
from suite3d.source import BadSample, Source
from tests.pointcloud.data.scenes import Scenes, make_scene

AUGMENT = [RandomFlip(axis="y"), RandomYaw(), RandomScale(low=0.8, high=1.2), RandomShift(), PointDropout(low=0.4, high=0.4), ShufflePoints()]


def move(xyz: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return xyz.double() @ matrix[:3, :3].T + matrix[:3, 3]


def test_frame_source() -> None:
    source = FrameSource(Scenes([3, 2]), AUGMENT, class_names=("van",), indices=[4, 0, 2], channels=("ring", "intensity"))
    assert isinstance(source, Source) and len(source) == 3 and source.name(0) == "drive1/1" and "boxes" in source.provides
    frames = [source.get(k, np.random.default_rng(k)) for k in range(3)]
    batch = source.collate(frames, [7, 8, 9])
    assert batch.seeds == [7, 8, 9] and batch.channels == ("ring", "intensity") and batch.names[1] == "drive0/0"
    np.testing.assert_array_equal(batch.xyz.numpy(), np.concatenate([frame.xyz for frame in frames]))
    assert batch.offsets.tolist() == np.cumsum([0] + [len(frame.xyz) for frame in frames]).tolist()
    assert batch.labels is not None and all((labels == 0).all() and len(labels) == 2 for labels in batch.labels)
    again = pickle.loads(pickle.dumps(source)).get(1, np.random.default_rng(1))
    np.testing.assert_array_equal(again.xyz, frames[1].xyz)


def test_frames_in_a_batch_keep_everything_but_points() -> None:
    source = FrameSource(Scenes([2]))
    batch = source.collate([source.get(0, np.random.default_rng(0))], [0])
    assert len(batch.frames[0].xyz) == 0 and len(batch.frames[0].boxes) == 5 and batch.frames[0].classes


def test_range_and_bad_samples() -> None:
    source = FrameSource(Scenes([3], broken=(1,)), point_range=(-30, -30, -3, 30, 30, 3))
    frame = source.get(0, np.random.default_rng(0))
    assert frame.xyz[:, 2].min() >= -3
    with pytest.raises(BadSample, match="on purpose"):
        source.get(1, np.random.default_rng(0))
    far = FrameSource(Scenes([1]), point_range=(500, 0, -3, 600, 10, 3))
    with pytest.raises(BadSample, match="0 of 550 points in range"):
        far.get(0, np.random.default_rng(0))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"\['time'\]"):
        FrameSource(Scenes([1]), channels=("intensity", "time"))
    with pytest.raises(ValueError, match="at least one"):
        FrameSource(Scenes([1]), indices=[])
    with pytest.raises(ValueError, match="indices"):
        FrameSource(Scenes([2]), indices=[2])
    with pytest.raises(ValueError, match="mode"):
        PairSource(Scenes([2]), mode="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["poses", "sequences"])
def test_temporal_pairs_need_poses_and_sequences(missing: str) -> None:
    data = Scenes([3])
    data.provides = data.provides - {missing}
    with pytest.raises(ValueError, match=f"no {missing}"):
        PairSource(data)
    assert len(PairSource(data, mode="augment")) == 3


def test_temporal_pairs_align_through_poses_and_augmentations() -> None:
    data = Scenes([4, 1, 5])
    source = PairSource(data, AUGMENT[:4], max_gap=2)
    assert len(source) == 9 and "pairs" in source.provides  # the lone frame has no partner
    pairs = [source.get(k, np.random.default_rng(k)) for k in range(9)]
    batch = source.collate(pairs, list(range(9)))
    for k, pair in enumerate(pairs):
        a, b = (int(name.split("/")[1]) for name in (pair.first.name, pair.second.name))
        assert pair.first.sequence == pair.second.sequence and 1 <= abs(a - b) <= 2
        # every recorded point of both sweeps: world position is the same by either way
        first, second = (data.frame(row_of(data, name)) for name in (pair.first.name, pair.second.name))
        world = second.xyz @ second.pose[:3, :3].T + second.pose[:3, 3]
        local = (world - first.pose[:3, 3]) @ first.pose[:3, :3]
        expected = move(torch.from_numpy(local), torch.from_numpy(pair.first.meta["augmentation"]))
        rows = slice(batch.second.offsets[k], batch.second.offsets[k + 1])
        torch.testing.assert_close(move(batch.second.xyz[rows], batch.second_to_first[k]), expected, atol=1e-3, rtol=0)
    assert batch.first_rows is None and batch.regions is None
    partners = {source.get(0, np.random.default_rng(seed)).second.name for seed in range(30)}
    assert partners == {"drive0/1", "drive0/2"}


def row_of(data: Scenes, name: str) -> int:
    return next(k for k in range(len(data)) if data.name(k) == name)


def test_augmented_pairs_share_points_and_regions() -> None:
    def regions(xyz: np.ndarray) -> np.ndarray:
        return np.where(xyz[:, 2] > -3, (xyz[:, 0] // 5 + 6).astype(int), -1)

    data = Scenes([3])
    source = PairSource(data, AUGMENT, mode="augment", regions=regions, point_range=(-20, -20, -5, 20, 20, 5), channels=("intensity",))
    pairs = [source.get(k, np.random.default_rng(k)) for k in range(3)]
    batch = source.collate(pairs, [0, 1, 2])
    assert batch.first_rows is not None and batch.second_rows is not None and batch.regions is not None
    scan = batch.second.batch_index()[batch.second_rows]
    torch.testing.assert_close(scan, batch.first.batch_index()[batch.first_rows])
    for k in range(3):
        mine = scan == k
        first, second = batch.first_rows[mine], batch.second_rows[mine]
        torch.testing.assert_close(move(batch.second.xyz[second], batch.second_to_first[k]), batch.first.xyz[first].double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(batch.first.feats[first], batch.second.feats[second])
        assert len(first.unique()) == len(first) and len(first) > 30
        # every point in both views is listed
        recorded = make_scene(k).xyz
        both = set(map(tuple, pairs[k].first.feats)) & set(map(tuple, pairs[k].second.feats))
        assert len(both) == len(first)
        # region ids follow the recorded points, unique over the batch
        undo = torch.from_numpy(np.linalg.inv(pairs[k].first.meta["augmentation"]))
        expected = torch.from_numpy(regions(recorded))
        nearest = torch.cdist(move(batch.first.xyz[first], undo), torch.from_numpy(recorded).double()).argmin(1)
        local = batch.regions[mine]
        offset = (local - expected[nearest])[local >= 0].unique()
        assert len(offset) == 1 and ((local < 0) == (expected[nearest] < 0)).all()
    spans = [set(batch.regions[(scan == k) & (batch.regions >= 0)].tolist()) for k in range(3)]
    assert not spans[0] & spans[1] and not spans[1] & spans[2]
    with pytest.raises(ValueError, match="regions returned shape"):
        PairSource(data, mode="augment", regions=lambda xyz: np.zeros(3, int)).get(0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="regions need"):
        PairSource(data, mode="temporal", regions=regions)
