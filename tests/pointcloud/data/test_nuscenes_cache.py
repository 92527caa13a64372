from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from suite3d.pointcloud.data import nuscenes_cache
from suite3d.pointcloud.data.nuscenes_cache import cached_key_frames
from suite3d.pointcloud.data.nuscenes_tables import BOX_COLUMNS, read_key_frames
from tests.pointcloud.data.test_nuscenes import make_root


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUITE3D_CACHE", str(tmp_path / "cache"))
    return make_root(tmp_path / "data", {"scene-0061": 4, "scene-0103": 2}, landmarks=np.ones((5, 3)))


def files(root: Path) -> list[Path]:
    return sorted((root.parent / "cache/nuscenes").glob("*.npz"))


def test_second_read_is_the_same_without_the_tables(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached_key_frames(root, "v1.0-mini", sweeps=3)
    monkeypatch.setattr(nuscenes_cache, "read_key_frames", None)
    second = cached_key_frames(root, "v1.0-mini", sweeps=3)
    assert [(frame.token, frame.scene, [(s.file, s.timestamp) for s in frame.sweeps]) for frame in first] == [
        (frame.token, frame.scene, [(s.file, s.timestamp) for s in frame.sweeps]) for frame in second
    ]
    for a, b in zip(first, second, strict=True):
        assert a.boxes is not None and b.boxes is not None
        assert all(np.array_equal(x.pose, y.pose) for x, y in zip(a.sweeps, b.sweeps, strict=True))
        assert (a.boxes.category_names, a.boxes.attribute_names) == (b.boxes.category_names, b.boxes.attribute_names)
        for name in BOX_COLUMNS:
            np.testing.assert_array_equal(getattr(a.boxes, name), getattr(b.boxes, name), strict=True)


def test_other_questions_and_changed_tables_are_parsed_again(root: Path) -> None:
    cached_key_frames(root, "v1.0-mini", sweeps=3)
    assert len(cached_key_frames(root, "v1.0-mini", sweeps=1)[2].sweeps) == 1 and len(files(root)) == 2
    table = root / "v1.0-mini/scene.json"
    table.write_text(table.read_text().replace('"name": "scene-0103"', '"name": "scene-0999"'))
    os.utime(table, ns=(1, 1))
    assert cached_key_frames(root, "v1.0-mini", sweeps=3)[-1].scene == "scene-0999"


def test_damaged_cache_and_unwritable_folder_cost_only_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cached_key_frames(root, "v1.0-mini", sweeps=2)
    (file,) = files(root)
    for damage in (file.read_bytes()[:200], b"", b"PK no zip"):
        file.write_bytes(damage)
        assert len(cached_key_frames(root, "v1.0-mini", sweeps=2)) == len(whole)
    monkeypatch.setenv("SUITE3D_CACHE", str(root / "v1.0-mini/scene.json"))  # a file where a folder is needed
    assert len(cached_key_frames(root, "v1.0-mini", sweeps=2)) == len(whole)


def test_test_set_without_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUITE3D_CACHE", str(tmp_path / "cache"))
    root = make_root(tmp_path / "data", {"scene-0061": 2}, landmarks=np.ones((2, 3)), annotate=False)
    for _ in range(2):
        frames = cached_key_frames(root, "v1.0-mini", sweeps=1)
        assert [frame.boxes for frame in frames] == [None, None] == [frame.boxes for frame in read_key_frames(root, "v1.0-mini", sweeps=1)]
