"""Pinhole camera in the same scene: the same parts and the same ground, shaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from suite3d.pointcloud.data.kitti_calibration import KittiCalibration
from suite3d.pointcloud.data.street import raycast
from suite3d.pointcloud.data.street.config import StreetConfig
from suite3d.pointcloud.data.street.ground import MARKING, ROAD, SIDEWALK, surface
from suite3d.pointcloud.data.street.raycast import GROUND, NOTHING, uniform
from suite3d.pointcloud.data.street.scene import Drive
from suite3d.pointcloud.data.street.sensor import relative_poses, run_blocks, split
from suite3d.pointcloud.data.street.shapes import CLASS_NAMES, LEAVES, WINDOWS

MOUNT = np.array([0.27, 0.0, -0.08])
"""Camera in the LiDAR frame, metres (as KITTI's left colour camera)."""

SUN = np.array([0.45, 0.35, 0.82]) / np.linalg.norm([0.45, 0.35, 0.82])
"""Direction towards the sun, world."""

_WEAVE = 11
"""Key of the textures, which stay put from frame to frame."""

VIEW = 250.0
"""Metres the camera sees."""


@njit(cache=True, nogil=True, error_model="numpy")
def _in_shadow(x: float, y: float, z: float, casters: NDArray[np.float64], sun: NDArray[np.float64]) -> bool:
    """Whether the way to the sun passes through a caster's box (x, y, z, cos, sin, half length, half width, height)."""
    for k in range(len(casters)):
        q = casters[k]
        ox, oy = x - q[0], y - q[1]
        if ox * ox + oy * oy > 400.0:
            continue
        ox, oy, oz = q[3] * ox + q[4] * oy, q[3] * oy - q[4] * ox, z - q[2]
        dx, dy = q[3] * sun[0] + q[4] * sun[1], q[3] * sun[1] - q[4] * sun[0]
        enter, leave = 0.02, 60.0
        for o, d, low, high in ((ox, dx, -q[5], q[5]), (oy, dy, -q[6], q[6]), (oz, sun[2], 0.25 * q[7], q[7])):
            if abs(d) < 1e-9:
                d = 1e-9
            a, b = (low - o) / d, (high - o) / d
            enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
        if enter < leave:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _paint_ground(
    fields: NDArray[np.float32], profile: NDArray[np.float64], site: NDArray[np.float64], wx: float, wy: float, weave: int, rgb: NDArray[np.float64]
) -> float:
    """Colour of the ground at a world position into ``rgb``; returns the grain of its surface."""
    ground = surface(fields, profile, site[4], site[5], wx, wy)
    if ground == ROAD:
        rgb[:] = 0.33
    elif ground == MARKING:
        rgb[:] = 0.86
    elif ground == SIDEWALK:
        rgb[0], rgb[1], rgb[2] = 0.58, 0.56, 0.53
    else:
        rgb[0], rgb[1], rgb[2] = 0.30, 0.42, 0.18
    return 0.16 * (uniform(weave, int(math.floor(wx * 12.0) + 1e6) * 4194304 + int(math.floor(wy * 12.0) + 1e6)) - 0.5)


@njit(cache=True, nogil=True, error_model="numpy")
def _paint_wall(
    x: float, y: float, z: float, pose: NDArray[np.float64], normal: NDArray[np.float32], texture: int, weave: int, rgb: NDArray[np.float64]
) -> float:
    """Windows of a wall into ``rgb`` where they are; returns the grain of its courses of bricks. x, y, z: the hit in the camera's frame."""
    cos, sin = math.cos(pose[3]), math.sin(pose[3])
    u, v, w = cos * (x - pose[0]) + sin * (y - pose[1]), cos * (y - pose[1]) - sin * (x - pose[0]), z - pose[2]
    across = u if abs(normal[0] * sin - normal[1] * cos) > 0.7 else v
    if texture == WINDOWS:
        cell = (across + 400.0) % 2.6
        floor = (w + 30.0) % 2.9
        if 0.7 < cell < 1.9 and 0.3 < floor < 1.8 and w > 0.2 and abs(normal[2]) < 0.5:
            rgb[0], rgb[1], rgb[2] = 0.20, 0.25, 0.31
    course = math.floor(w / 0.3)
    return 0.14 * (uniform(weave, int(math.floor(across / 0.6 + 0.5 * (course % 2)) + 1e6) * 4194304 + int(course + 1e6)) - 0.5)


@njit(cache=True, nogil=True, error_model="numpy")
def _shade(
    dirs: NDArray[np.float64],
    distance: NDArray[np.float64],
    part: NDArray[np.int32],
    normal: NDArray[np.float32],
    kind: NDArray[np.int8],
    body: NDArray[np.int32],
    colour: NDArray[np.float64],
    optics: NDArray[np.float64],
    texture: NDArray[np.int8],
    poses: NDArray[np.float64],
    casters: NDArray[np.float64],
    fields: NDArray[np.float32],
    profile: NDArray[np.float64],
    site: NDArray[np.float64],
    sun: NDArray[np.float64],
    key: int,
    weave: int,
    start: int,
    stop: int,
    image: NDArray[np.uint8],
) -> None:
    """Lambertian shading, shadows of the road users, window grids, haze and sky into ``image (W, H, 3)``."""
    rows = dirs.shape[1]
    cos, sin = math.cos(site[3]), math.sin(site[3])
    light = np.array([cos * sun[0] + sin * sun[1], cos * sun[1] - sin * sun[0], sun[2]])
    rgb, sky = np.empty(3), np.empty(3)
    mist = np.array([0.80, 0.86, 0.92])
    for c in range(start, stop):
        for r in range(rows):
            dx, dy, dz = dirs[c, r, 0], dirs[c, r, 1], dirs[c, r, 2]
            lift = min(max(dz * 2.2, 0.0), 1.0)
            sky[0], sky[1], sky[2] = 0.80 - 0.42 * lift, 0.86 - 0.28 * lift, 0.92 - 0.08 * lift
            p, t = part[c, r], distance[c, r]
            if p == NOTHING:
                rgb[:] = sky
            else:
                wx, wy, wz = site[0] + t * (cos * dx - sin * dy), site[1] + t * (sin * dx + cos * dy), site[2] + t * dz
                facing = normal[c, r, 0] * light[0] + normal[c, r, 1] * light[1] + normal[c, r, 2] * light[2]
                grain = 0.0
                if p == GROUND:
                    grain = _paint_ground(fields, profile, site, wx, wy, weave, rgb)
                else:
                    rgb[:] = colour[p]
                    if kind[p] == LEAVES:
                        grain = 0.45 * (uniform(key, c * rows + r) - 0.5)
                    if texture[p] > 0:
                        grain = _paint_wall(t * dx, t * dy, t * dz, poses[body[p]], normal[c, r], texture[p], weave, rgb)
                    elif optics[p, 2] > 0.3:  # glass mirrors the sky
                        for k in range(3):
                            rgb[k] = 0.6 * rgb[k] + 0.25 * sky[k]
                lit = max(facing, 0.0)
                if lit > 0.0 and t < 70.0 and _in_shadow(wx, wy, wz + 0.01, casters, sun) and (p == GROUND or kind[p] != LEAVES):
                    lit = 0.0
                shade = 0.46 + 0.10 * normal[c, r, 2] + 0.52 * lit
                haze = 1.0 - math.exp(-t / 260.0)
                for k in range(3):
                    rgb[k] = (rgb[k] * (1.0 + grain) * shade) * (1 - haze) + mist[k] * haze
            for k in range(3):
                image[c, r, k] = int(min(max(rgb[k], 0.0), 1.0) ** 0.85 * 255.0)


@dataclass(kw_only=True)
class _View:
    """Nearest hits of every pixel, ``(W, H)``: see :func:`raycast.cast`; ``poses`` of the bodies as the camera sees them."""

    poses: NDArray[np.float64]
    site: NDArray[np.float64]
    distance: NDArray[np.float64]
    part: NDArray[np.int32]
    normal: NDArray[np.float32]


class StreetCamera:
    """Forward-looking pinhole camera.

    Args:
        config: image size.

    Attributes:
        calibration: intrinsics and mounting in KITTI's terms.
        image_size: (width, height) pixels.
    """

    def __init__(self, config: StreetConfig) -> None:
        self._config = config
        scale = config.image_width / 1242.0
        self.image_size = (config.image_width, config.image_height)
        self.focal, self.cx, self.cy = 721.5377 * scale, 609.5593 * scale, 172.854 * config.image_height / 375.0
        projection = np.array([[self.focal, 0.0, self.cx, 0.0], [0.0, self.focal, self.cy, 0.0], [0.0, 0.0, 1.0, 0.0]])
        turn = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # forward-left-up to right-down-forward
        u, v = np.meshgrid(np.arange(config.image_width), np.arange(config.image_height), indexing="ij")
        dirs = np.stack([np.ones(u.shape), -(u - self.cx) / self.focal, -(v - self.cy) / self.focal], axis=-1)
        self._dirs = dirs / np.linalg.norm(dirs, axis=-1, keepdims=True)
        self.calibration = KittiCalibration(projection, np.eye(3), np.concatenate([turn, -(turn @ MOUNT)[:, None]], axis=1))

    def render(self, drive: Drive, moment: int, key: int) -> NDArray[np.uint8]:
        """``(H, W, 3)`` RGB picture at column ``moment`` of the drive's poses."""
        parts, street = drive.parts, drive.street
        view = self._trace(drive, moment, key)
        users = np.array([body.name in CLASS_NAMES for body in drive.bodies], dtype=bool)
        users &= np.linalg.norm(view.poses[:, :2], axis=1) < 80.0
        where, size = drive.poses[users, moment], drive.sizes[users]
        casters = np.concatenate([where[:, :3], np.cos(where[:, 3:]), np.sin(where[:, 3:]), size[:, :2] / 2 * 0.96, size[:, 2:]], axis=1)
        image = np.empty(view.normal.shape, dtype=np.uint8)

        def columns(block: tuple[int, int]) -> None:
            surfaces = (parts.kind, parts.body, parts.colour, parts.optics, parts.texture)
            ground = (street.fields, street.profile, view.site)
            _shade(self._dirs, view.distance, view.part, view.normal, *surfaces, view.poses, casters, *ground, SUN, key, _WEAVE, *block, image)

        run_blocks(columns, split(self._config.image_width, self._config.threads), self._config.threads)
        return np.ascontiguousarray(image.transpose(1, 0, 2))

    def segment(self, drive: Drive, moment: int, key: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What each pixel of :meth:`render` shows.

        Returns:
            ``(H, W)`` distance along the ray in metres (inf for the sky) and ``(H, W)`` track id (0 for everything without a box).
        """
        view = self._trace(drive, moment, key)
        tracks = np.where(view.part >= 0, drive.tracks[drive.parts.body[np.maximum(view.part, 0)]], 0)
        return np.ascontiguousarray(view.distance.T.astype(np.float32)), np.ascontiguousarray(tracks.T)

    def _trace(self, drive: Drive, moment: int, key: int) -> _View:
        config, parts, street = self._config, drive.parts, drive.street
        lidar = drive.ego[moment]
        cos, sin = np.cos(lidar[3]), np.sin(lidar[3])
        viewer = lidar + np.array([cos * MOUNT[0] - sin * MOUNT[1], sin * MOUNT[0] + cos * MOUNT[1], MOUNT[2], 0.0])
        poses = relative_poses(drive.poses[:, moment], viewer)
        placed, corners, near = raycast.place_parts(parts.kind, parts.body, parts.params, parts.low, parts.high, poses, VIEW)
        bounds = raycast.pinhole_bounds(corners, near, self.focal, self.cx, self.cy, config.image_width, config.image_height)
        order = np.argsort(near[:, 0], kind="stable")
        order = order[(bounds[:, 1] >= bounds[:, 0])[order]]
        shape = self._dirs.shape[:2]
        view = _View(
            poses=poses,
            site=np.array([*viewer, street.x0, street.y0]),
            distance=np.empty(shape),
            part=np.empty(shape, dtype=np.int32),
            normal=np.zeros((*shape, 3), dtype=np.float32),
        )

        def columns(block: tuple[int, int]) -> None:
            scene = (order, bounds, near, parts.kind, placed, parts.optics, street.fields, street.profile, view.site)
            raycast.cast(self._dirs, *scene, VIEW, key, *block, view.distance, view.part, view.normal)

        run_blocks(columns, split(config.image_width, config.threads), config.threads)
        return view
