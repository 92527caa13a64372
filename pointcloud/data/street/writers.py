"""The street world on disk, in the layouts of KITTI and nuScenes and as driving video, for tools that want files.

Formats: KITTI object development kit (``readme.txt``: label columns, calibration, ``mapping``); nuScenes data format v1.0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.kitti_calibration import KittiCalibration
from suite3d.pointcloud.data.kitti_labels import boxes_to_labels
from suite3d.pointcloud.data.street.config import StreetConfig
from suite3d.pointcloud.data.street.nuscenes_tables import NuScenesTables, scan_file
from suite3d.pointcloud.data.street.world import StreetWorld
from suite3d.report.png import encode_png
from suite3d.write_video import write_video

Progress = Callable[[int, int], None]
"""Called with (frames written, frames in all)."""

SPLITS: tuple[Literal["train", "val"], ...] = ("train", "val")
_worlds: dict[str, StreetWorld] = {}


def write_kitti(
    config: StreetConfig,
    root: str | Path,
    *,
    images: bool = True,
    labels: Literal["camera", "all"] = "camera",
    workers: int = 1,
    progress: Progress | None = None,
) -> int:
    """Write both splits in KITTI's object layout.

    ``training/{velodyne,label_2,calib,image_2}``, ``ImageSets/{train,val,trainval}.txt`` and, so that readers know the drives,
    ``ImageSets/{train_mapping,train_rand}.txt`` as in the development kit; ``poses.txt`` has one row of 12 numbers a frame (LiDAR to
    world, row-major). Ids run through train, then val. Labels have the truncated share of the box in steps of 1/8 of its length, and
    occlusion from the share of laser rays that reach the object (0 above 0.8, 1 above 0.4, 2 below).

    Args:
        config: what to generate.
        root: a new or empty folder.
        images: render and write ``image_2``.
        labels: "camera" labels what has pixels and returns inside the picture, as KITTI does; "all" labels everything with returns, with
            an image box of zeros where it is out of the picture.
        workers: processes.
        progress: see :data:`Progress`.

    Returns:
        Number of frames.

    Raises:
        ValueError: the folder is not empty.
        OSError: writing failed; the lists in ``ImageSets`` are written last, so an unfinished tree has none.
    """
    base = _new_folder(root)
    for name in ("velodyne", "label_2", "calib", *(["image_2"] if images else [])):
        (base / "training" / name).mkdir(parents=True)
    worlds = {split: StreetWorld(config, split) for split in SPLITS}
    jobs: list[tuple[Literal["train", "val"], int, int]] = []
    for split in SPLITS:
        jobs += [(split, index, len(jobs) + index) for index in range(len(worlds[split]))]
    poses = _map(partial(_kitti_frame, config, base, images, labels), jobs, workers, progress)
    (base / "poses.txt").write_text("".join(" ".join(f"{value:.9e}" for value in pose[:3].ravel()) + "\n" for pose in poses))
    lists = base / "ImageSets"
    lists.mkdir()
    drives = [worlds[split].name(index).split("/") for split, index, _ in jobs]
    (lists / "train_mapping.txt").write_text("".join(f"street {drive} {frame}\n" for drive, frame in drives))
    (lists / "train_rand.txt").write_text(",".join(str(number + 1) for number in range(len(jobs))) + "\n")
    for split in SPLITS:
        _write(lists / f"{split}.txt", "".join(f"{number:06d}\n" for name, _, number in jobs if name == split).encode())
    _write(lists / "trainval.txt", "".join(f"{number:06d}\n" for _, _, number in jobs).encode())
    return len(jobs)


def write_nuscenes(
    config: StreetConfig,
    root: str | Path,
    *,
    version: str = "v1.0-trainval",
    images: bool = True,
    key_rate: float = 2.0,
    workers: int = 1,
    progress: Progress | None = None,
) -> int:
    """Write both splits in nuScenes' layout.

    Tables in ``root/version``; LIDAR_TOP sweeps of five float32 columns (x, y, z, intensity 0-255, ring) in ``samples`` at key frames and
    ``sweeps`` between them; CAM_FRONT pictures (PNG) at key frames; ``root/splits.json`` names the scenes of "train" and "val". The LiDAR
    is mounted x forward, above the origin of the ego frame on the road. Annotations stand at key frames, linked by instance, so
    velocities follow from their neighbours. Categories: Car and Van are ``vehicle.car``, Truck ``vehicle.truck``, Pedestrian
    ``human.pedestrian.adult``, Cyclist ``vehicle.bicycle`` with rider.

    Args:
        config: what to generate.
        root: a new or empty folder.
        version: name of the folder of tables.
        images: render and write CAM_FRONT.
        key_rate: key frames a second (rounded to a whole number of frames).
        workers: processes.
        progress: see :data:`Progress`.

    Returns:
        Number of sweeps.

    Raises:
        ValueError: the folder is not empty, or ``key_rate`` is not positive.
        OSError: writing failed; the tables are written last.
    """
    if key_rate <= 0:
        raise ValueError(f"key_rate must be positive, got {key_rate}")
    base = _new_folder(root)
    for name in ("samples/LIDAR_TOP", "sweeps/LIDAR_TOP", *(["samples/CAM_FRONT"] if images else []), version):
        (base / name).mkdir(parents=True)
    stride = max(1, round(config.frame_rate / key_rate))
    worlds = {split: StreetWorld(config, split) for split in SPLITS}
    jobs = [(split, index) for split in SPLITS for index in range(len(worlds[split]))]
    frames = _map(partial(_nuscenes_frame, config, base, images, stride), jobs, workers, progress)
    tables = NuScenesTables(config, worlds["train"].camera.calibration, images=images, stride=stride)
    for split in SPLITS:
        for start in range(0, len(worlds[split]), config.frames):
            first = start + (0 if split == "train" else len(worlds["train"]))
            tables.add_scene(frames[first : first + config.frames])
    names: dict[str, list[str]] = {
        split: [worlds[split].sequence(start) for start in range(0, len(worlds[split]), config.frames)] for split in SPLITS
    }
    tables.write(base, version, names, _write)
    return len(jobs)


def write_videos(config: StreetConfig, root: str | Path, *, workers: int = 1, progress: Progress | None = None) -> int:
    """Write what the camera sees: ``root/{train,val}/drive_<number>.mp4``, H.264 at the world's frame rate, one file a drive.

    The picture loses its last row or column where ``image_height`` or ``image_width`` is odd.

    Args:
        config: what to generate; ``frames`` is the length of a clip.
        root: a new or empty folder.
        workers: processes.
        progress: called with (drives written, drives in all).

    Returns:
        Number of frames.

    Raises:
        ValueError: the folder is not empty.
        OSError: writing failed; files that are there are whole.
    """
    base = _new_folder(root)
    jobs = [(split, drive) for split in SPLITS for drive in range(config.sequences(split))]
    return sum(_map(partial(_drive_video, config, base), jobs, workers, progress))


def _drive_video(config: StreetConfig, base: Path, split: Literal["train", "val"], drive: int) -> int:
    world = _world(config, split)
    height, width = config.image_height // 2 * 2, config.image_width // 2 * 2
    frames = (world.image(drive * config.frames + number)[:height, :width] for number in range(config.frames))
    rate = Fraction(config.frame_rate).limit_denominator(1000)
    return write_video(base / split / f"drive_{drive:04d}.mp4", frames, fps=rate)


def _new_folder(root: str | Path) -> Path:
    base = Path(root)
    if base.exists() and (not base.is_dir() or any(base.iterdir())):
        raise ValueError(f"{base}: expected a new or empty folder to write to; give another or empty this one")
    base.mkdir(parents=True, exist_ok=True)
    return base


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _map(work: Callable[..., Any], jobs: list[Any], workers: int, progress: Progress | None) -> list[Any]:
    """Results of ``work(*job)`` in order, over processes when asked."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers > 1 else None
    results: Iterable[Any] = pool.map(_call, repeat(work), jobs, chunksize=8) if pool else (work(*job) for job in jobs)
    done = []
    try:
        for result in results:
            done.append(result)
            if progress is not None:
                progress(len(done), len(jobs))
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return done


def _call(work: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    return work(*job)


def _world(config: StreetConfig, split: Literal["train", "val"]) -> StreetWorld:
    """One world per process, split and config, so that the frames of a drive share its layout."""
    name = f"{split} {config}"
    if name not in _worlds:
        if len(_worlds) >= len(SPLITS):
            _worlds.clear()
        _worlds[name] = StreetWorld(replace(config, images=False), split, cache=4)
    return _worlds[name]


def _kitti_frame(
    config: StreetConfig, base: Path, images: bool, labels: str, split: Literal["train", "val"], index: int, number: int
) -> NDArray[np.float64]:
    world = _world(config, split)
    frame, folder, ident = world.frame(index), base / "training", f"{number:06d}"
    columns = np.concatenate([frame.xyz, frame.feats[:, :1]], axis=1)
    _write(folder / "velodyne" / f"{ident}.bin", columns.astype("<f4").tobytes())
    _write(folder / "calib" / f"{ident}.txt", _calibration_text(world.camera.calibration).encode())
    rows = kitti_rows(frame, world.visibility(index), camera_only=labels == "camera")
    _write(folder / "label_2" / f"{ident}.txt", "".join(rows).encode())
    if images:
        _write(folder / "image_2" / f"{ident}.png", encode_png(world.image(index)))
    assert frame.pose is not None
    return frame.pose


def kitti_rows(frame: Frame, visibility: NDArray[np.float64], *, camera_only: bool) -> list[str]:
    """Lines of a KITTI label file for a street frame; see :func:`write_kitti`."""
    assert frame.boxes is not None and frame.track_ids is not None and frame.instances is not None
    calibration, size = frame.meta["calibration"], frame.meta["image_size"]
    labels = boxes_to_labels(frame.boxes, frame.classes, calibration, image_size=size)
    in_view = frame.instances[calibration.in_view(frame.xyz, size)]
    truncated = np.array([_outside(box, calibration, size) for box in frame.boxes])
    occluded = np.select([visibility > 0.8, visibility > 0.4], [0, 1], 2)
    lines = []
    for row, name in enumerate(labels.classes):
        left, top, right, bottom = labels.boxes2d[row]
        pictured = right > left and bottom > top and truncated[row] < 1 and bool((in_view == frame.track_ids[row]).any())
        if camera_only and not pictured:
            continue
        numbers = [*labels.boxes2d[row], *labels.sizes[row], *labels.centers[row], labels.rotation_y[row]]
        head = f"{name} {truncated[row]:.2f} {occluded[row]:d} {labels.alpha[row]:.4f}"
        lines.append(head + " " + " ".join(f"{value:.4f}" for value in numbers) + "\n")
    return lines


def _outside(box: NDArray[np.float32], calibration: KittiCalibration, size: tuple[int, int]) -> float:
    """Share of a box's volume, sampled at 8 x 4 x 4 points, that is out of the picture."""
    grid = np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5 for n in (8, 4, 4)], indexing="ij")
    local = np.stack(grid, axis=-1).reshape(-1, 3) * box[3:6]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return 1.0 - float(calibration.in_view((local @ turn + box[:3]).astype(np.float32), size).mean())


def _calibration_text(calibration: KittiCalibration) -> str:
    matrices = {f"P{k}": calibration.P2 for k in range(4)}
    matrices |= {"R0_rect": calibration.R0, "Tr_velo_to_cam": calibration.Tr, "Tr_imu_to_velo": np.eye(4)[:3]}
    return "".join(f"{name}: " + " ".join(f"{value:.12e}" for value in matrix.ravel()) + "\n" for name, matrix in matrices.items())


def _nuscenes_frame(config: StreetConfig, base: Path, images: bool, stride: int, split: Literal["train", "val"], index: int) -> dict[str, Any]:
    world = _world(replace(config, keep_empty=True), split)
    frame, number = world.frame(index), index % config.frames  # boxes without returns keep the chains of instances whole
    key = number % stride == 0
    columns = np.concatenate([frame.xyz, frame.feats[:, :1] * 255.0, frame.feats[:, 2:3]], axis=1)
    _write(base / scan_file(frame.sequence, number, key=key), columns.astype("<f4").tobytes())
    if key and images:
        _write(base / scan_file(frame.sequence, number, key=True, camera=True), encode_png(world.image(index)))
    return {
        "scene": frame.sequence,
        "split": split,
        "number": number,
        "pose": frame.pose,
        "boxes": frame.boxes,
        "classes": frame.classes,
        "tracks": frame.track_ids,
        "points": frame.meta["num_points"],
        "visibility": world.visibility(index) if key else None,
    }
