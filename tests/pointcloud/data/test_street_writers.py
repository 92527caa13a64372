"""The street world written to disk and read back by the readers of real data."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from suite3d.pointcloud.data.kitti import KittiObject
from suite3d.pointcloud.data.nuscenes import NuScenes
from suite3d.pointcloud.data.street import StreetConfig, StreetWorld
from suite3d.pointcloud.data.street.writers import write_kitti, write_nuscenes, write_videos
from suite3d.report.png import read_png

CONFIG = StreetConfig(train_sequences=2, val_sequences=1, frames=6, frame_rate=4.0, beams=24, azimuths=360, image_width=207, image_height=62)


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("street") / "kitti"
    calls: list[tuple[int, int]] = []
    assert write_kitti(CONFIG, root, progress=lambda done, total: calls.append((done, total))) == 18
    assert calls == [(k + 1, 18) for k in range(18)]
    return root


@pytest.fixture(scope="module")
def nuscenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("street") / "nuscenes"
    assert write_nuscenes(CONFIG, root) == 18
    return root


@pytest.mark.parametrize("split", ["train", "val"])
def test_kitti_gives_back_points_boxes_and_drives(kitti: Path, split: str) -> None:
    world = StreetWorld(CONFIG, split)  # type: ignore[arg-type]
    read = KittiObject(kitti, split, fov_only=False)
    assert len(read) == len(world)
    total = 0
    for index in range(0, len(world), 2):
        there, here = read.frame(index), world.frame(index)
        assert read.sequence(index) == world.sequence(index)
        assert np.array_equal(there.xyz, here.xyz) and np.array_equal(there.feats[:, 0], here.feats[:, 0])
        assert there.boxes is not None and here.boxes is not None and here.track_ids is not None and here.instances is not None
        gap = np.abs(there.boxes[:, None, :7] - here.boxes[None, :, :7])
        gap[..., 6] = np.minimum(gap[..., 6], 2 * np.pi - gap[..., 6])
        match = gap.max(-1).argmin(1)
        assert (gap.max(-1).min(1) < 1e-2).all() and len(set(match)) == len(match)
        assert [here.classes[row] for row in match] == there.classes
        in_view = here.meta["calibration"].in_view(here.xyz, here.meta["image_size"])
        assert set(here.track_ids[match]) <= set(here.instances[in_view])
        middle = here.meta["calibration"].in_view(here.boxes[:, :3], here.meta["image_size"])
        expected = {track for track, ok in zip(here.track_ids.tolist(), middle) if ok} & set(here.instances[in_view].tolist())
        assert expected <= set(here.track_ids[match].tolist())  # whatever has its middle and a return in the picture is labelled
        assert np.isin(there.meta["labels"].occluded, [0, 1, 2]).all() and (there.meta["labels"].truncated < 1).all()
        total += len(there.boxes)
    assert total > 10


def test_kitti_pictures_calibration_and_poses(kitti: Path) -> None:
    world = StreetWorld(CONFIG)
    assert (read_png(kitti / "training" / "image_2" / "000003.png") == world.image(3)).all()
    read = KittiObject(kitti, "train")
    assert read.image_size(3) == (207, 62)
    calibration = read.calibration(3)
    assert calibration is not None
    assert np.allclose(calibration.lidar_to_image, world.camera.calibration.lidar_to_image)
    poses = np.loadtxt(kitti / "poses.txt").reshape(-1, 3, 4)
    assert len(poses) == 18 and np.allclose(poses[3], world.frame(3).pose[:3], atol=1e-6)  # type: ignore[index]


def test_kitti_all_labels(tmp_path: Path) -> None:
    config = StreetConfig(train_sequences=1, val_sequences=0, frames=1, beams=24, azimuths=360)
    write_kitti(config, tmp_path / "all", images=False, labels="all")
    read, world = KittiObject(tmp_path / "all", "train", fov_only=False), StreetWorld(config)
    there, here = read.frame(0), world.frame(0)
    assert there.boxes is not None and here.boxes is not None
    assert there.classes == here.classes
    gap = np.abs(there.boxes - here.boxes[:, :7])
    gap[:, 6] = np.minimum(gap[:, 6], 2 * np.pi - gap[:, 6])
    assert gap.max() < 1e-2


def test_nuscenes_gives_back_points_boxes_tracks_and_velocities(nuscenes: Path) -> None:
    world = StreetWorld(CONFIG)
    read = NuScenes(nuscenes, split="train", sweeps=1)
    assert len(read) == 6 and len(NuScenes(nuscenes, split="val", sweeps=1)) == 3  # key frames at 2 Hz
    names = {"Car": "car", "Van": "car", "Truck": "truck", "Pedestrian": "pedestrian", "Cyclist": "bicycle"}
    for place in range(len(read)):
        there, here = read.frame(place), world.frame(2 * place)
        assert read.sequence(place) == world.sequence(2 * place)
        assert np.array_equal(there.xyz, here.xyz)
        assert np.allclose(there.feats[:, 0], here.feats[:, 0], atol=1e-6) and np.array_equal(there.feats[:, 2], here.feats[:, 2])
        assert there.pose is not None and here.pose is not None and np.allclose(there.pose, here.pose, atol=1e-9)
        assert there.boxes is not None and here.boxes is not None
        gap = np.abs(there.boxes[:, None] - here.boxes[None])
        gap[..., 6] = np.minimum(gap[..., 6], 2 * np.pi - gap[..., 6])
        match = gap[..., :7].max(-1).argmin(1)
        assert sorted(match) == list(range(len(here.boxes)))
        assert gap[np.arange(len(match)), match, :7].max() < 1e-2
        assert [names[here.classes[row]] for row in match] == there.classes
        speed_gap = np.linalg.norm(there.boxes[:, 7:] - here.boxes[match, 7:9], axis=1)
        assert np.quantile(speed_gap, 0.8) < 0.3 and (there.meta["box_points"] == here.meta["num_points"][match]).all()


def test_nuscenes_sweeps_line_up(nuscenes: Path) -> None:
    """Ten sweeps in the key frame: road points of all of them lie on one surface."""
    read = NuScenes(nuscenes, split="train", sweeps=10)
    frame = read.frame(2)
    assert set(np.round(np.unique(frame.feats[:, 1]), 3)) == {-1.0, -0.75, -0.5, -0.25, 0.0}
    world = StreetWorld(CONFIG)
    assert frame.pose is not None
    points = frame.xyz.astype(np.float64) @ frame.pose[:3, :3].T + frame.pose[:3, 3]
    height = points[:, 2] - world.drive(0).street.height(points[:, :2])
    low = np.abs(height) < 0.1
    assert low.mean() > 0.5 and height[low].std() < 0.035


def test_nuscenes_tables_are_linked(nuscenes: Path) -> None:
    tables = {path.stem: json.loads(path.read_text()) for path in (nuscenes / "v1.0-trainval").glob("*.json")}
    assert len(tables) == 13
    tokens = {name: {row["token"]: row for row in rows} for name, rows in tables.items()}
    for name, rows in tables.items():
        assert len(tokens[name]) == len(rows), name
        for row in rows:
            for key, value in row.items():
                target = key.removesuffix("_token")
                if target in tokens and target != key:
                    assert value in tokens[target], (name, key)
            if row.get("next"):
                assert tokens[name][row["next"]]["prev"] == row["token"]
    for row in tables["sample_data"]:
        assert (nuscenes / row["filename"]).is_file()
    for row in tables["instance"]:
        assert tokens["sample_annotation"][row["first_annotation_token"]]["prev"] == ""


def test_only_new_or_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    for write in (write_kitti, write_nuscenes):
        with pytest.raises(ValueError, match="new or empty folder"):
            write(CONFIG, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_videos_show_what_the_camera_sees(tmp_path: Path) -> None:
    config = StreetConfig(train_sequences=2, val_sequences=1, frames=3, beams=4, azimuths=8, image_width=96, image_height=49)
    assert write_videos(config, tmp_path / "v") == 9
    assert sorted(path.relative_to(tmp_path / "v").as_posix() for path in (tmp_path / "v").rglob("*.mp4")) == [
        "train/drive_0000.mp4",
        "train/drive_0001.mp4",
        "val/drive_0000.mp4",
    ]
    with av.open(str(tmp_path / "v/train/drive_0001.mp4")) as container:
        assert container.streams.video[0].average_rate == config.frame_rate
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    world = StreetWorld(config, "train")
    errors = np.array([[np.abs(frame - world.image(config.frames + n)[:48]).mean() for n in range(3)] for frame in frames])
    assert (errors.argmin(axis=1) == np.arange(3)).all() and errors.diagonal().max() < 6  # of 255; the codec loses a little
