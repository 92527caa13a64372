"""The ray caster against a naive marcher that only asks whether a point is inside a part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from suite3d.pointcloud.data.street import StreetConfig, StreetWorld
from suite3d.pointcloud.data.street.models import MODELS
from suite3d.pointcloud.data.street.scene import Drive
from suite3d.pointcloud.data.street.sensor import SpinningLidar
from suite3d.pointcloud.data.street.shapes import BOX, CYLINDER, LEAVES, Body, Parts

CONFIG = StreetConfig(frames=1, beams=24, azimuths=180, range_noise=0.0, dropout=0.0, min_range=0.1, vegetation=0.0, max_range=50.0)


def _solid(drive: Drive) -> Drive:
    """Without parts that let rays through and without lost pulses, so that the nearest surface is what must come back."""
    parts = drive.parts
    keep = (parts.kind != LEAVES) & (parts.optics[:, 3] == 0)
    kept = {name: getattr(parts, name)[keep] for name in vars(parts)}
    kept["optics"] = np.tile([1.0, 0.0, 0.0, 0.0], (int(keep.sum()), 1))
    return replace(drive, parts=Parts(**kept))


def _inside(parts: Parts, row: int, points: NDArray[np.float64], slack: float) -> NDArray[np.bool_]:
    """Whether points (in the body's frame) are inside a part grown by ``slack`` metres."""
    q = parts.params[row]
    if parts.kind[row] == BOX:
        planes = q.reshape(6, 4)
        return (points @ planes[:, :3].T <= planes[:, 3] + slack).all(1)
    if parts.kind[row] == CYLINDER:
        along = (points - q[:3]) @ q[3:6]
        away = np.linalg.norm(points - q[:3] - along[:, None] * q[3:6], axis=1)
        return (along >= -slack) & (along <= q[6] + slack) & (away <= q[7] + slack)
    return np.linalg.norm((points - q[:3]) / (q[3:6] + slack), axis=1) <= 1


def _inside_any(drive: Drive, points: NDArray[np.float64], slack: float) -> NDArray[np.bool_]:
    """Whether world points are inside any part or below the ground."""
    found = points[:, 2] < drive.street.height(points[:, :2]) + slack
    for body in range(len(drive.bodies)):
        rows = np.flatnonzero(drive.parts.body == body)
        if not len(rows):
            continue
        pose = drive.poses[body, 1]
        reach = 1.0 + np.hypot(*np.maximum(np.abs(drive.parts.low[rows]), np.abs(drive.parts.high[rows]))[:, :2].max(0))
        near = np.flatnonzero(((points[:, :2] - pose[:2]) ** 2).sum(1) < reach**2)
        cos, sin = np.cos(pose[3]), np.sin(pose[3])
        local = (points[near] - pose[:3]) @ np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        for row in rows if len(near) else []:
            found[near] |= _inside(drive.parts, row, local, slack)
    return found


def test_returns_are_on_surfaces_and_nothing_is_in_front_of_them() -> None:
    drive = _solid(StreetWorld(CONFIG).drive(0))
    sweep = SpinningLidar(CONFIG).scan(drive, 1, 99)
    pick = np.random.default_rng(0).choice(len(sweep.xyz), 80, replace=False)
    cos, sin = np.cos(drive.ego[1, 3]), np.sin(drive.ego[1, 3])
    turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    distance = np.linalg.norm(sweep.xyz[pick].astype(np.float64), axis=1)
    direction = sweep.xyz[pick].astype(np.float64) / distance[:, None] @ turn
    at = drive.ego[1, :3] + direction * distance[:, None]
    assert _inside_any(drive, at, 2e-3).all()
    share = np.linspace(0.02, 1.0, 250)
    before = drive.ego[1, :3] + direction[:, None] * (share[:, None] * (distance - 0.02)[:, None, None])
    assert not _inside_any(drive, before.reshape(-1, 3), -2e-3).any()


def test_rays_without_a_return_meet_nothing() -> None:
    drive = _solid(StreetWorld(CONFIG).drive(0))
    lidar = SpinningLidar(CONFIG)
    hits = lidar._trace(drive, 1, 99)
    column, ring = np.nonzero(np.isinf(hits.distance))
    pick = np.random.default_rng(1).choice(len(column), 40, replace=False)
    cos, sin = np.cos(drive.ego[1, 3]), np.sin(drive.ego[1, 3])
    direction = lidar.dirs[column[pick], ring[pick]] @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    along = np.linspace(0.5, CONFIG.max_range - 0.01, 400)
    points = drive.ego[1, :3] + direction[:, None] * along[:, None]
    assert not _inside_any(drive, points.reshape(-1, 3), -5e-3).any()


def test_a_box_in_a_known_place_is_hit_where_it_must_be() -> None:
    """One 2 m cube dead ahead: its front face is at x = 9, seen by exactly the rays that fit."""
    config = replace(CONFIG, beams=21, elevation_low=-10.0, elevation_high=10.0, azimuths=720)
    drive = StreetWorld(config).drive(0)
    cube = Body("object").box((-1, 1), (-1, 1), (0, 2), MODELS["Car"](np.random.default_rng(0)).parts[0].material, (0, 0, 0))
    ego = drive.ego[1]
    pose = np.array([ego[0] + 10 * np.cos(ego[3]), ego[1] + 10 * np.sin(ego[3]), ego[2] - 1.0, ego[3]])
    alone = replace(
        drive, bodies=[cube], parts=Parts.pack([cube]), poses=np.tile(pose, (1, 3, 1)), sizes=np.array([[2.0, 2, 2]]), tracks=np.array([0])
    )
    hits = SpinningLidar(config)._trace(alone, 1, 0)
    column, ring = np.nonzero(hits.part == 0)
    points = SpinningLidar(config).dirs[column, ring] * hits.distance[column, ring, None]
    assert np.abs(points[:, 0] - 9).max() < 1e-9
    azimuths, elevations = np.radians(np.arange(-180, 180, 0.5)), np.radians(np.arange(-10, 11))
    y = 9 * np.tan(azimuths)
    z = np.tan(elevations)[None] * 9 / np.cos(azimuths)[:, None]
    fits = (np.abs(azimuths) < 1)[:, None] & (np.abs(y)[:, None] <= 1) & (np.abs(z) <= 1)
    assert len(points) == fits.sum() > 100
    assert np.allclose(hits.normal[column, ring], [-1, 0, 0])


@pytest.mark.parametrize("name", list(MODELS))
def test_boxes_are_tight_around_the_parts(name: str) -> None:
    """Extents from surface samples (corners of the tapered boxes, rims and spheres) equal the body's size."""
    for seed in range(4):
        body = MODELS[name](np.random.default_rng(seed))
        parts = Parts.pack([body])
        rng = np.random.default_rng(0)
        clouds = []
        for row in range(len(parts)):
            q = parts.params[row]
            if parts.kind[row] == BOX:
                planes = q.reshape(6, 4)
                corners = [np.linalg.solve(planes[[z, x, y], :3], planes[[z, x, y], 3]) for z in (0, 1) for x in (2, 3) for y in (4, 5)]
                clouds.append(np.array(corners))
                continue
            sphere = rng.normal(size=(4000, 3))
            sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
            if parts.kind[row] == CYLINDER:
                across = np.cross(sphere, q[3:6])
                rim = q[:3] + q[7] * across / np.linalg.norm(across, axis=1, keepdims=True)
                clouds += [rim, rim + q[6] * q[3:6]]
            else:
                clouds.append(q[:3] + sphere * q[3:6])
        cloud = np.concatenate(clouds)
        centre = (cloud.max(0) + cloud.min(0)) / 2
        assert np.abs(np.ptp(cloud, axis=0) - body.size).max() < 2e-3
        assert np.abs(centre - [0, 0, body.size[2] / 2]).max() < 2e-3


def test_leaves_let_part_of_the_pulses_through() -> None:
    config = replace(CONFIG, beams=64, azimuths=720, vegetation=2.0, elevation_high=15.0)
    through = within = 0
    for sequence in range(2):
        drive = StreetWorld(config).drive(sequence)
        lidar = SpinningLidar(config)
        hits = lidar._trace(drive, 1, 5)
        rows = np.flatnonzero(drive.parts.kind == LEAVES)
        for row in rows:
            own = hits.part == row
            centre, radii = hits.placed[row, :3], hits.placed[row, 3:6]
            points = lidar.dirs[own] * hits.distance[own][:, None]
            local = (points - centre) @ np.array([[c := hits.placed[row, 7], -(s := hits.placed[row, 8]), 0], [s, c, 0], [0, 0, 1]])
            level = np.linalg.norm(local / radii, axis=1)
            assert (level < 1 + 1e-9).all()
            within += int((level < 0.9).sum())
        crossing = np.zeros(hits.part.shape, dtype=bool)
        for row in rows:
            b = np.einsum("crk,k->cr", lidar.dirs, hits.placed[row, :3])
            miss = np.linalg.norm(hits.placed[row, :3]) ** 2 - b**2
            entered = (b > 0) & (miss < (0.5 * hits.placed[row, 3:6].min()) ** 2)
            crossing |= entered & (hits.distance > b + hits.placed[row, 3:6].max())
        through += int(crossing.sum())
    assert within > 50 and through > 20


def test_visibility_is_one_without_neighbours_and_less_behind_them() -> None:
    world = StreetWorld(replace(CONFIG, beams=48, azimuths=720))
    frame, share = world.frame(0), world.visibility(0)
    assert frame.boxes is not None and len(share) == len(frame.boxes)
    assert share.min() > 0 and share.max() == 1 and (share < 0.7).any()
    assert share[np.argsort(np.linalg.norm(frame.boxes[:, :2], axis=1))[:2]].min() > 0.5


def test_camera_and_lidar_see_the_same_scene() -> None:
    """Returns projected into the picture fall on pixels of the same object at the same distance."""
    world = StreetWorld(replace(CONFIG, beams=64, azimuths=1024, image_width=414, image_height=125, max_range=80.0))
    same = total = 0
    for index in range(3):
        frame = world.frame(index)
        assert frame.instances is not None
        depth, tracks = world.segment(index)
        calibration, size = frame.meta["calibration"], frame.meta["image_size"]
        assert depth.shape == (size[1], size[0])
        seen = calibration.in_view(frame.xyz, size) & (np.linalg.norm(frame.xyz, axis=1) < 40)
        rect = np.concatenate([frame.xyz[seen], np.ones((seen.sum(), 1))], axis=1) @ calibration.lidar_to_rect.T
        pixels, _ = calibration.project_rect(rect[:, :3])
        u, v = np.minimum(np.round(pixels).astype(int), np.array(size) - 1).T
        agree = np.abs(depth[v, u] - np.linalg.norm(rect[:, :3], axis=1)) < 0.5
        same += int((agree & (tracks[v, u] == frame.instances[seen])).sum())
        total += int(seen.sum())
    assert total > 5000 and same > 0.93 * total


def test_the_picture_is_a_picture() -> None:
    world = StreetWorld(replace(CONFIG, image_width=207, image_height=62, images=True))
    image = world.frame(0).meta["image"]
    assert image.shape == (62, 207, 3) and image.dtype == np.uint8 and (image == world.image(0)).all()
    depth, tracks = world.segment(0)
    sky = np.isinf(depth)
    assert sky.any() and image[sky].astype(int)[:, 2].min() > 180  # bright blue-white
    assert len({tuple(pixel) for pixel in image[tracks > 0]}) > 50
    threaded = StreetWorld(replace(CONFIG, image_width=207, image_height=62, threads=2))
    assert (threaded.image(0) == image).all()
