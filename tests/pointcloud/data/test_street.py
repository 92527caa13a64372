"""The street world: determinism, labels that fit the points, motion, and nothing driving through anything."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.street import CLASS_NAMES, POINT_CLASSES, StreetConfig, StreetWorld
from suite3d.pointcloud.data.street.ground import GROUND_LABELS

SMALL = StreetConfig(train_sequences=3, val_sequences=2, frames=4, beams=16, azimuths=256)
CLEAN = replace(SMALL, beams=32, azimuths=512, range_noise=0.0, dropout=0.0, intensity_noise=0.0)
EVERYTHING = replace(CLEAN, keep_empty=True, frames=6)


@pytest.fixture(scope="module")
def clean() -> StreetWorld:
    return StreetWorld(CLEAN)


@pytest.fixture(scope="module")
def everything() -> StreetWorld:
    return StreetWorld(EVERYTHING)


def _digest(frame: Frame) -> bytes:
    assert frame.boxes is not None and frame.flow is not None and frame.pose is not None
    return b"".join(array.tobytes() for array in (frame.xyz, frame.feats, frame.boxes, frame.flow, frame.pose))


def _world_points(frame: Frame, xyz: NDArray[np.float32]) -> NDArray[np.float64]:
    assert frame.pose is not None
    return xyz.astype(np.float64) @ frame.pose[:3, :3].T + frame.pose[:3, 3]


def _local(xyz: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points in the axes of a box (7 or more numbers)."""
    cos, sin = np.cos(box[6]), np.sin(box[6])
    return (xyz - box[:3]) @ np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def test_frames_do_not_depend_on_order_cache_threads_or_pickling() -> None:
    world = StreetWorld(SMALL)
    expected = [_digest(world.frame(index)) for index in range(len(world))]
    shuffled = StreetWorld(replace(SMALL, threads=3), cache=1)
    for index in (7, 1, 11, 0, 5):
        assert _digest(shuffled.frame(index)) == expected[index]
    assert _digest(pickle.loads(pickle.dumps(world)).frame(3)) == expected[3]


def test_another_process_makes_the_same_frame() -> None:
    code = (
        "import hashlib; from suite3d.pointcloud.data.street import *;"
        "f = StreetWorld(StreetConfig(train_sequences=3, val_sequences=2, frames=4, beams=16, azimuths=256)).frame(6);"
        "print(hashlib.sha256(f.xyz.tobytes() + f.boxes.tobytes()).hexdigest())"
    )
    root = Path(__file__).parents[3]
    digest = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    frame = StreetWorld(SMALL).frame(6)
    assert frame.boxes is not None
    assert digest == hashlib.sha256(frame.xyz.tobytes() + frame.boxes.tobytes()).hexdigest() + "\n"


def test_seed_split_sequence_and_frame_all_matter() -> None:
    worlds = [StreetWorld(SMALL), StreetWorld(SMALL, "val"), StreetWorld(replace(SMALL, seed=1))]
    frames = [_digest(world.frame(index)) for world in worlds for index in (0, 1, 4)]
    assert len(set(frames)) == len(frames)
    train, val = ({world.sequence(index) for index in range(len(world))} for world in worlds[:2])
    assert len(train) == 3 and len(val) == 2 and not train & val


def test_names_lengths_and_bounds() -> None:
    world = StreetWorld(SMALL, "val")
    assert len(world) == 8
    assert (world.name(5), world.sequence(5)) == ("street_val_0001/000001", "street_val_0001")
    assert world.frame(5).name == world.name(5)
    with pytest.raises(IndexError, match="0 to 7"):
        world.frame(8)
    assert world.provides == {"boxes", "poses", "sequences", "point_labels", "flow"}


def test_beam_angles_and_firing_times_are_exact(clean: StreetWorld) -> None:
    frame = clean.frame(1)
    distance = np.linalg.norm(frame.xyz.astype(np.float64), axis=1)
    ring = frame.feats[:, frame.channels.index("ring")].astype(int)
    elevation = np.arcsin(frame.xyz[:, 2] / distance)
    assert np.abs(elevation - np.radians(np.linspace(-24.8, 2.0, 32))[ring]).max() < 1e-6
    turn = (np.pi - np.arctan2(frame.xyz[:, 1], frame.xyz[:, 0])) / (2 * np.pi) * 512
    assert np.abs(turn - np.round(turn)).max() < 1e-3
    time = frame.feats[:, frame.channels.index("time")]
    assert np.abs(time * 10 - (np.round(turn) % 512 + 1 - 512) / 512).max() < 1e-5
    assert time.min() >= -0.1 and time.max() <= 0


def test_explicit_beam_table() -> None:
    world = StreetWorld(replace(CLEAN, elevations=(-20.0, -10.0, -9.0, 1.0)))
    frame = world.frame(0)
    ring = frame.feats[:, 2].astype(int)
    elevation = np.degrees(np.arcsin(frame.xyz[:, 2] / np.linalg.norm(frame.xyz, axis=1)))
    assert set(ring) == {0, 1, 2, 3}
    assert np.abs(elevation - np.array([-20.0, -10.0, -9.0, 1.0])[ring]).max() < 1e-4


def test_every_labelled_point_lies_in_its_own_box_and_counts_match(clean: StreetWorld) -> None:
    for index in range(0, len(clean), 3):
        frame = clean.frame(index)
        assert frame.boxes is not None and frame.track_ids is not None and frame.instances is not None and frame.point_labels is not None
        assert set(frame.track_ids) == set(frame.instances) - {0}
        for row, (box, track, name) in enumerate(zip(frame.boxes, frame.track_ids, frame.classes)):
            own = frame.instances == track
            assert own.sum() == frame.meta["num_points"][row] > 0
            assert (np.abs(_local(frame.xyz[own].astype(np.float64), box)) <= box[3:6] / 2 + 1e-4).all(), name
            assert set(frame.point_labels[own]) == {POINT_CLASSES.index(name)}
        boxed = np.isin(frame.point_labels, [POINT_CLASSES.index(name) for name in CLASS_NAMES])
        assert (boxed == (frame.instances > 0)).all()


def test_points_of_others_stay_out_of_the_boxes(clean: StreetWorld) -> None:
    """A little slack: kerbs and slopes may poke into the lowest centimetres, crowns overhang."""
    frame = clean.frame(2)
    assert frame.boxes is not None and frame.instances is not None and frame.track_ids is not None
    for box, track in zip(frame.boxes, frame.track_ids):
        shrunk = box.copy()
        shrunk[3:6] = box[3:6] - np.array([0.05, 0.05, 0.5])
        inside = (np.abs(_local(frame.xyz.astype(np.float64), shrunk)) <= shrunk[3:6] / 2).all(1)
        assert (frame.instances[inside] == track).all()


def test_no_box_without_enough_points_unless_asked(clean: StreetWorld, everything: StreetWorld) -> None:
    strict = StreetWorld(replace(CLEAN, min_points=20)).frame(0)
    normal, full = clean.frame(0), everything.frame(0)
    assert 0 < len(strict.classes) < len(normal.classes) < len(full.classes)
    assert strict.meta["num_points"].min() >= 20 and normal.meta["num_points"].min() >= 1 and full.meta["num_points"].min() == 0


def test_ground_points_lie_on_the_ground_of_the_world(clean: StreetWorld) -> None:
    frame = clean.frame(5)
    assert frame.point_labels is not None
    ground = np.isin(frame.point_labels, GROUND_LABELS)
    world = _world_points(frame, frame.xyz[ground])
    height = clean.drive(1).street.height(world[:, :2])
    assert ground.sum() > 1000
    assert np.quantile(np.abs(world[:, 2] - height), 0.99) < 2e-3
    assert np.abs(world[:, 2] - height).max() < 0.05  # on a kerb the height jumps within centimetres


def test_range_noise_is_along_the_ray_and_of_the_right_size(clean: StreetWorld) -> None:
    noisy = StreetWorld(replace(CLEAN, range_noise=0.05)).frame(0)
    exact = clean.frame(0)
    assert len(noisy.xyz) == len(exact.xyz)
    error = np.linalg.norm(noisy.xyz, axis=1) - np.linalg.norm(exact.xyz, axis=1)
    assert error.std() == pytest.approx(0.05, rel=0.05) and abs(error.mean()) < 0.003


def test_dropout_takes_its_share(clean: StreetWorld) -> None:
    full, half = clean.frame(0), StreetWorld(replace(CLEAN, dropout=0.5)).frame(0)
    assert len(half.xyz) / len(full.xyz) == pytest.approx(0.5, abs=0.02)


def test_intensity_follows_material_and_incidence(clean: StreetWorld) -> None:
    frame = clean.frame(0)
    assert frame.point_labels is not None
    intensity = frame.feats[:, 0]
    assert 0 <= intensity.min() and intensity.max() <= 1
    mean = {name: intensity[frame.point_labels == POINT_CLASSES.index(name)].mean() for name in ("road", "marking", "building")}
    assert mean["marking"] > 1.8 * mean["road"] and mean["building"] > 1.5 * mean["road"]
    road = frame.point_labels == POINT_CLASSES.index("road")
    distance = np.linalg.norm(frame.xyz, axis=1)
    assert intensity[road & (distance < 6)].mean() > 1.5 * intensity[road & (distance > 25)].mean()


def test_flow_takes_points_to_the_same_place_on_the_same_object(everything: StreetWorld) -> None:
    moved = 0
    for index in (0, 7, 13):
        now, then = everything.frame(index), everything.frame(index + 1)
        assert now.flow is not None and now.instances is not None and now.track_ids is not None and then.track_ids is not None
        assert now.boxes is not None and then.boxes is not None and now.pose is not None and then.pose is not None
        assert not now.flow[now.instances == 0].any()
        after = (_world_points(now, now.xyz + now.flow) - then.pose[:3, 3]) @ then.pose[:3, :3]
        boxes = dict(zip(then.track_ids.tolist(), then.boxes))
        for track, box in zip(now.track_ids.tolist(), now.boxes):
            own = now.instances == track
            if not own.any() or track not in boxes:
                continue
            before = _local(now.xyz[own].astype(np.float64), box)
            assert np.abs(_local(after[own], boxes[track]) - before).max() < 1e-3
            moved += int(np.linalg.norm(now.flow[own], axis=1).max() > 0.2)
            assert np.linalg.norm(now.flow[own][:, :2].mean(0) * 10 - box[7:9]) < 0.4 + 0.1 * np.linalg.norm(box[7:9])
    assert moved >= 3


def test_still_things_stay_where_they_are_and_velocities_are_over_ground(everything: StreetWorld) -> None:
    first, last = everything.frame(0), everything.frame(5)
    for frame in (first, last):
        assert frame.boxes is not None and frame.track_ids is not None and frame.pose is not None
    assert first.pose is not None and last.pose is not None
    assert np.linalg.norm(last.pose[:3, 3] - first.pose[:3, 3]) > 0.3
    where = [dict(zip(f.track_ids.tolist(), _world_points(f, f.boxes[:, :3]))) for f in (first, last)]  # type: ignore[union-attr,index]
    speed = dict(zip(first.track_ids.tolist(), np.linalg.norm(first.boxes[:, 7:9], axis=1)))  # type: ignore[union-attr,index]
    shared = where[0].keys() & where[1].keys()
    shift = {track: np.linalg.norm(where[1][track] - where[0][track]) for track in shared}
    still = [track for track in shared if speed[track] == 0]
    assert len(still) > 10 and max(shift[track] for track in still) < 1e-4
    moving = [track for track in shared if speed[track] > 1]
    assert moving and all(abs(shift[track] - 0.5 * speed[track]) < 0.35 * speed[track] for track in moving)


def test_static_surfaces_of_two_frames_coincide(clean: StreetWorld) -> None:
    from scipy.spatial import cKDTree

    first, last = clean.frame(4), clean.frame(7)
    assert first.point_labels is not None and last.point_labels is not None
    solid = [POINT_CLASSES.index(name) for name in ("building", "pole", "trunk")]
    a, b = (_world_points(f, f.xyz[np.isin(f.point_labels, solid)]) for f in (first, last))
    near = cKDTree(b).query(a)[0]
    assert len(a) > 200 and np.median(near) < 0.25


def _footprints(boxes: NDArray[np.float64]) -> Iterator[shapely.Polygon]:
    for x, y, length, width, yaw in boxes:
        corner = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * np.array([length, width]) / 2
        turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
        yield shapely.Polygon(corner @ turn + np.array([x, y]))


@pytest.mark.parametrize("seed", range(3))
def test_nothing_stands_or_drives_in_anything_else(seed: int) -> None:
    world = StreetWorld(replace(SMALL, seed=seed, frames=20, train_sequences=2))
    for sequence in range(2):
        drive = world.drive(sequence)
        boxed = np.flatnonzero(drive.tracks)
        solid = np.array([row for row, body in enumerate(drive.bodies) if body.name in ("building", "pole", "fence")])
        for moment in (0, 7, 14, 21):
            ego = np.array([[*drive.ego[moment, :2], 4.6, 1.85, drive.ego[moment, 3]]])
            rows = np.concatenate([drive.poses[boxed, moment, :2], drive.sizes[boxed, :2], drive.poses[boxed, moment, 3:]], axis=1)
            users = list(_footprints(np.concatenate([ego, rows])))
            tree = shapely.STRtree(users)
            pairs = tree.query(users, predicate="intersects")
            assert (pairs[0] == pairs[1]).all()
            poles = np.concatenate([drive.poses[solid, moment, :2], drive.sizes[solid, :2], drive.poses[solid, moment, 3:]], axis=1)
            for row, polygon in zip(solid, _footprints(poles)):
                if drive.bodies[row].name == "pole":
                    polygon = polygon.centroid
                hits = tree.query(polygon, predicate="intersects")
                if drive.bodies[row].name == "building":  # bays and steps reach a metre beyond the walls, above or beside the kerb
                    hits = [hit for hit in hits if users[hit].intersection(polygon.buffer(-1.3, join_style="mitre")).area > 0]
                assert len(hits) == 0, drive.bodies[row].name


def test_every_class_occurs_with_realistic_sizes() -> None:
    world = StreetWorld(replace(SMALL, train_sequences=6))
    limits = {  # length, width, height in metres
        "Car": ((3.4, 5.1), (1.55, 2.05), (1.3, 1.9)),
        "Van": ((4.3, 6.1), (1.75, 2.2), (1.8, 2.7)),
        "Truck": ((6.0, 11.7), (2.2, 2.65), (2.4, 4.0)),
        "Pedestrian": ((0.2, 1.3), (0.3, 0.95), (0.95, 2.05)),
        "Cyclist": ((1.5, 2.0), (0.45, 0.95), (1.4, 2.05)),
    }
    seen: dict[str, list[NDArray[np.float64]]] = {name: [] for name in limits}
    for sequence in range(6):
        drive = world.drive(sequence)
        for row in np.flatnonzero(drive.tracks):
            seen[drive.bodies[row].name].append(drive.sizes[row])
    for name, ranges in limits.items():
        sizes = np.array(seen[name])
        assert len(sizes) >= 10
        for axis, (low, high) in enumerate(ranges):
            assert low <= sizes[:, axis].min() and sizes[:, axis].max() <= high, (name, axis)
        assert sizes.std(0).min() > 0.02


def test_densities_switch_things_off() -> None:
    empty = replace(SMALL, parked=0, traffic=0, pedestrians=0, cyclists=0)
    frame = StreetWorld(empty).frame(0)
    assert frame.boxes is not None and frame.boxes.shape == (0, 9) and frame.classes == [] and len(frame.xyz) > 500
    assert frame.flow is not None and not frame.flow.any()
    bare = StreetWorld(replace(SMALL, vegetation=0, clutter=0))
    assert not any(body.name in ("pole", "object") for body in bare.drive(0).bodies)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "frames must be at least 1"),
        ({"frame_rate": 0.0}, "frame_rate must be positive"),
        ({"min_range": 90.0}, "min_range < max_range"),
        ({"elevations": (1.0, 0.0)}, "ascend"),
        ({"parked": 9.0}, "density between 0 and 3"),
        ({"dropout": -0.1}, "must not be negative"),
    ],
)
def test_a_bad_config_says_what_is_wrong(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreetConfig(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='"train" and "val"'):
        StreetWorld(SMALL, "test")  # type: ignore[arg-type]


def test_the_config_goes_through_omegaconf_and_the_world_through_a_source() -> None:
    from omegaconf import OmegaConf

    from suite3d.pointcloud.data.source import FrameSource

    merged = OmegaConf.merge(
        OmegaConf.structured(StreetConfig), OmegaConf.from_dotlist(["frames=1", "beams=8", "azimuths=64", "elevations=[-9.5,1]"])
    )
    config = OmegaConf.to_object(merged)
    assert isinstance(config, StreetConfig) and config.elevations == (-9.5, 1.0) and config.frames == 1
    source = FrameSource(StreetWorld(config), [], class_names=("Car", "Pedestrian"))
    rng = np.random.default_rng(0)
    batch = source.collate([source.get(0, rng), source.get(1, rng)], [0, 1])
    assert batch.batch_size == 2 and batch.channels == ("intensity", "time", "ring") and batch.boxes is not None and batch.boxes[0].shape[1] == 9
