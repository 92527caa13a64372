from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from suite3d.pointcloud.data.boxes import box_index, collide_bev, points_per_box
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.paste import PasteDatabase, PasteObjects
from suite3d.pointcloud.data.splits import LabelLeak, label_subset
from suite3d.pointcloud.data.transforms import RandomFlip
from tests.pointcloud.data.scenes import Scenes, make_scene

COUNTS = {"car": 6, "van": 5}


@pytest.fixture
def database() -> PasteDatabase:
    return PasteDatabase.build(Scenes([6, 6]), range(12))


def test_objects_are_the_points_in_their_boxes(database: PasteDatabase) -> None:
    assert database.counts() == {"car": 36, "van": 24} and len(database.frames) == 12
    for k in range(len(database)):
        part = database.xyz[database.offsets[k] : database.offsets[k + 1]]
        assert len(part) >= 30 and points_per_box(part, database.boxes[k : k + 1])[0] == len(part)
    few = PasteDatabase.build(Scenes([6]), range(6), class_names=["van"], min_points=10_000)
    assert len(few) == 0 and few.boxes.shape == (0, 7)


def clutter(frame: Frame, seed: int) -> Frame:
    """Its ground points thrown anywhere, so that many stand where objects will be pasted."""
    rng = np.random.default_rng(seed)
    free = box_index(frame.xyz, frame.boxes) < 0
    frame.xyz[free] = rng.uniform([-20, -12, -2], [25, 12, 2], (int(free.sum()), 3))
    return frame


@pytest.mark.parametrize("whole", [True, False])
def test_pasted_scene(database: PasteDatabase, whole: bool) -> None:
    paste = PasteObjects(database=database, counts=COUNTS, limit_whole_scene=whole)
    for seed in range(8):
        frame = clutter(make_scene(100 + seed), seed)
        frame.rows = np.arange(len(frame.xyz))
        out = paste(frame, np.random.default_rng(seed))
        old, new = len(frame.boxes), len(out.boxes)
        assert new > old and len(out.classes) == new == len(out.track_ids) and (out.track_ids[old:] == -1).all()
        np.testing.assert_array_equal(out.boxes[:old], frame.boxes)
        # pasted boxes overlap nothing, neither what was there nor each other
        clash = collide_bev(out.boxes, out.boxes)
        np.fill_diagonal(clash, False)
        assert not clash[old:].any()
        for name, limit in COUNTS.items():
            added = out.classes[old:].count(name)
            assert added <= max(0, limit - frame.classes.count(name)) if whole else added <= limit
        # inside each pasted box there are exactly the object's own points
        stored = {tuple(box): int(n) for box, n in zip(database.boxes.tolist(), np.diff(database.offsets))}
        wanted = [stored[tuple(box)] for box in out.boxes[old:].tolist()]
        np.testing.assert_array_equal(points_per_box(out.xyz, out.boxes[old:]), wanted)
        # points of the old boxes are untouched, and every per-point array follows
        np.testing.assert_array_equal(points_per_box(out.xyz, frame.boxes), points_per_box(frame.xyz, frame.boxes))
        lengths = {len(array) for array in (out.xyz, out.feats, out.point_labels, out.instances, out.flow, out.rows)}
        assert lengths == {len(out.xyz)} and (out.rows == -1).sum() == sum(wanted)
        recorded = out.rows >= 0
        np.testing.assert_array_equal(out.xyz[recorded], frame.xyz[out.rows[recorded]])


def test_paste_is_a_function_of_the_generator(database: PasteDatabase) -> None:
    paste = PasteObjects(database=database, counts=COUNTS)
    a, b, c = (paste(make_scene(50), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.xyz, b.xyz)
    assert a.boxes.shape != c.boxes.shape or not np.array_equal(a.boxes, c.boxes)


def test_misuse_is_refused(database: PasteDatabase) -> None:
    paste = PasteObjects(database=database, counts=COUNTS)
    moved = RandomFlip(probability=1.0)(make_scene(0), np.random.default_rng(0))
    with pytest.raises(ValueError, match="before flips"):
        paste(moved, np.random.default_rng(0))
    with pytest.raises(ValueError, match="boxes of 9 numbers"):
        paste(make_scene(0, velocity=False), np.random.default_rng(0))
    other = make_scene(0)
    other.feats, other.channels = other.feats[:, :1], ("intensity",)
    with pytest.raises(ValueError, match="channels"):
        paste(other, np.random.default_rng(0))
    bare = make_scene(0)
    bare.boxes = None
    assert paste(bare, np.random.default_rng(0)) is bare
    with pytest.raises(ValueError, match="not, the first is drive0/1"):
        PasteDatabase.build(Scenes([3], unlabelled=(1,)), range(3))


def test_broken_frames_are_listed() -> None:
    database = PasteDatabase.build(Scenes([4], broken=(2,)), range(4))
    assert database.skipped == [("drive0/2", "broken on purpose")] and len(database) == 15
    with pytest.raises(ValueError, match="none of the 2 frames"):
        PasteDatabase.build(Scenes([2], broken=(0, 1)), range(2))


def test_leaks_stop_the_run(tmp_path: Path) -> None:
    data = Scenes([2] * 10)
    small, large = label_subset(data, "10%"), label_subset(data, "50%")
    database = PasteDatabase.build(data, small.indices)
    assert database.hash == small.hash
    database.check(small.indices)
    database.check(large.indices)
    full = PasteDatabase.build(data, range(len(data)))
    for known in (None, data):
        with pytest.raises(LabelLeak, match=r"18 of 20 frames outside the 2 labelled"):
            full.check(small.indices, dataset=known)
    database.save(tmp_path / "paste.npz")
    loaded = PasteDatabase.load(tmp_path / "paste.npz")
    np.testing.assert_array_equal(loaded.xyz, database.xyz)
    assert (loaded.classes, loaded.frames, loaded.channels, loaded.hash) == (database.classes, database.frames, database.channels, database.hash)
    loaded.check(small.indices, dataset=data)
    # same indices of another data set: only names tell
    with pytest.raises(LabelLeak):
        loaded.check(range(20), dataset=Scenes([1] * 20))
    (tmp_path / "paste.npz").write_bytes(b"PK")
    with pytest.raises((ValueError, OSError)):
        PasteDatabase.load(tmp_path / "paste.npz")
