"""What the LiDAR makes of the nearest hits: range noise, intensity, lost returns, labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from suite3d.pointcloud.data.street import raycast
from suite3d.pointcloud.data.street.config import StreetConfig
from suite3d.pointcloud.data.street.ground import surface
from suite3d.pointcloud.data.street.raycast import GROUND, NOTHING, uniform
from suite3d.pointcloud.data.street.scene import Drive

GROUND_OPTICS = np.array([[0.0, 0.8], [0.14, 0.9], [0.75, 0.5], [0.28, 0.9], [0.36, 0.7]])
"""Reflectivity and diffuse share by semantic id of the ground (road, marking, sidewalk, terrain)."""

TEN_PERCENT_RANGE = 75.0
"""Metres at which a surface returning 10 % of the pulse is seen half the time."""


@dataclass(kw_only=True)
class Sweep:
    """Returns of one revolution, in firing order (columns clockwise from the rear, rings upwards).

    Attributes:
        xyz: ``(N, 3)`` float32 in the LiDAR frame, metres.
        intensity: ``(N,)`` float32 in [0, 1].
        time: ``(N,)`` float32 seconds before the end of the revolution (<= 0).
        ring: ``(N,)`` float32, 0 is the lowest beam.
        label: ``(N,)`` int64 ids into ``shapes.POINT_CLASSES``.
        body: ``(N,)`` int32 row of the body, -1 for the ground.
    """

    xyz: NDArray[np.float32]
    intensity: NDArray[np.float32]
    time: NDArray[np.float32]
    ring: NDArray[np.float32]
    label: NDArray[np.int64]
    body: NDArray[np.int32]


@njit(cache=True, nogil=True, error_model="numpy")
def _receive(
    dirs: NDArray[np.float64],
    distance: NDArray[np.float64],
    part: NDArray[np.int32],
    normal: NDArray[np.float32],
    optics: NDArray[np.float64],
    part_label: NDArray[np.int64],
    ground_optics: NDArray[np.float64],
    fields: NDArray[np.float32],
    profile: NDArray[np.float64],
    site: NDArray[np.float64],
    noise: NDArray[np.float64],
    key: int,
    start: int,
    stop: int,
    measured: NDArray[np.float32],
    label: NDArray[np.int64],
) -> None:
    """Fill ``measured (C, R, 2)`` with range (0 = no return) and intensity, and ``label (C, R)``.

    ``noise`` is (range, dropout, intensity, min_range, ten-percent range). A return is lost when the surface returns
    too little for its distance: detection range grows with the square root of the returned share.
    """
    rows = dirs.shape[1]
    cos, sin = math.cos(site[3]), math.sin(site[3])
    for c in range(start, stop):
        for r in range(rows):
            measured[c, r, 0] = 0.0
            p, t = part[c, r], distance[c, r]
            if p == NOTHING or t < noise[3]:
                continue
            dx, dy, dz = dirs[c, r, 0], dirs[c, r, 1], dirs[c, r, 2]
            lost = noise[1]
            if p == GROUND:
                x, y = site[0] + t * (cos * dx - sin * dy), site[1] + t * (sin * dx + cos * dy)
                kind = surface(fields, profile, site[4], site[5], x, y)
                label[c, r] = kind
                reflectivity, diffuse = ground_optics[kind, 0], ground_optics[kind, 1]
            else:
                label[c, r] = part_label[p]
                reflectivity, diffuse = optics[p, 0], optics[p, 1]
                lost = 1.0 - (1.0 - lost) * (1.0 - optics[p, 2])
            cosine = abs(dx * normal[c, r, 0] + dy * normal[c, r, 1] + dz * normal[c, r, 2])
            back = reflectivity * (1.0 - diffuse + diffuse * cosine)
            ray = (c * rows + r) * 8
            if uniform(key, ray + 1) < lost:
                continue
            spread = math.sqrt(-2.0 * math.log(uniform(key, ray + 2)))
            angle = 2.0 * math.pi * uniform(key, ray + 3)
            reach = noise[4] * math.sqrt(back * 10.0) * (1.0 + 0.15 * spread * math.sin(angle))
            if t > max(reach, 12.0):
                continue
            measured[c, r, 0] = t + noise[0] * spread * math.cos(angle)
            level = back * (1.0 + 0.2 * (uniform(key, ray + 4) - 0.5)) + noise[2] * (uniform(key, ray + 5) + uniform(key, ray + 6) - 1.0) * 2.4
            measured[c, r, 1] = min(max(level, 0.0), 1.0)


def relative_poses(poses: NDArray[np.float64], viewer: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(B, 4)`` world poses x, y, z, yaw as seen by a level viewer ``(4,)`` of the same kind."""
    gap = poses[:, :3] - viewer[:3]
    cos, sin = np.cos(viewer[3]), np.sin(viewer[3])
    return np.stack([cos * gap[:, 0] + sin * gap[:, 1], cos * gap[:, 1] - sin * gap[:, 0], gap[:, 2], poses[:, 3] - viewer[3]], axis=1)


def split(columns: int, threads: int) -> list[tuple[int, int]]:
    """Column ranges for the threads; narrow ones, so that a crowded direction does not hold up the rest."""
    blocks = 1 if threads == 1 else min(columns, 8 * threads)
    edges = np.linspace(0, columns, blocks + 1).astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


@dataclass(kw_only=True)
class _Hits:
    """Raw result of the ray caster, before the sensor: see :func:`raycast.cast`."""

    site: NDArray[np.float64]
    placed: NDArray[np.float64]
    bounds: NDArray[np.int64]
    distance: NDArray[np.float64]
    part: NDArray[np.int32]
    normal: NDArray[np.float32]


class SpinningLidar:
    """Beam table and firing directions.

    Args:
        config: sensor geometry and noise.
    """

    def __init__(self, config: StreetConfig) -> None:
        self._config = config
        self.elevations = config.beam_table()
        self.azimuths = np.pi - 2 * np.pi * np.arange(config.azimuths) / config.azimuths
        azimuth, elevation = np.meshgrid(self.azimuths, self.elevations, indexing="ij")
        self.dirs = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1)

    def _trace(self, drive: Drive, moment: int, key: int, then: Callable[[_Hits, tuple[int, int]], None] | None = None) -> _Hits:
        """Nearest hits of every ray; ``then(hits, columns)`` runs on each finished block of columns, in its thread."""
        config, parts, street = self._config, drive.parts, drive.street
        viewer = drive.ego[moment]
        poses = relative_poses(drive.poses[:, moment], viewer)
        placed, corners, near = raycast.place_parts(parts.kind, parts.body, parts.params, parts.low, parts.high, poses, config.max_range)
        bounds = raycast.spinning_bounds(corners, near, self.elevations, config.azimuths)
        order = np.argsort(near[:, 0], kind="stable")
        order = order[(bounds[:, 1] >= bounds[:, 0])[order]]
        shape = self.dirs.shape[:2]
        hits = _Hits(
            site=np.array([*viewer, street.x0, street.y0]),
            placed=placed,
            bounds=bounds,
            distance=np.empty(shape),
            part=np.empty(shape, dtype=np.int32),
            normal=np.empty((*shape, 3), dtype=np.float32),
        )

        def columns(block: tuple[int, int]) -> None:
            scene = (order, bounds, near, parts.kind, placed, parts.optics, street.fields, street.profile, hits.site)
            raycast.cast(self.dirs, *scene, config.max_range, key, *block, hits.distance, hits.part, hits.normal)
            if then is not None:
                then(hits, block)

        run_blocks(columns, split(config.azimuths, config.threads), config.threads)
        return hits

    def scan(self, drive: Drive, moment: int, key: int) -> Sweep:
        """Sweep at column ``moment`` of the drive's poses.

        Args:
            drive: the scene.
            moment: frame index + 1.
            key: of everything random in this sweep, below 2**62.
        """
        config, parts, street = self._config, drive.parts, drive.street
        noise = np.array([config.range_noise, config.dropout, config.intensity_noise, config.min_range, TEN_PERCENT_RANGE])
        shape = self.dirs.shape[:2]
        measured, label = np.empty((*shape, 2), dtype=np.float32), np.empty(shape, dtype=np.int64)

        def receive(hits: _Hits, block: tuple[int, int]) -> None:
            surfaces = (parts.optics, parts.label, GROUND_OPTICS, street.fields, street.profile, hits.site)
            _receive(self.dirs, hits.distance, hits.part, hits.normal, *surfaces, noise, key + 1, *block, measured, label)

        hits = self._trace(drive, moment, key, receive)
        column, ring = np.nonzero(measured[..., 0] > 0)
        hit = hits.part[column, ring]
        return Sweep(
            xyz=(self.dirs[column, ring] * measured[column, ring, :1]).astype(np.float32),
            intensity=measured[column, ring, 1],
            time=((column + 1 - config.azimuths) / (config.azimuths * config.frame_rate)).astype(np.float32),
            ring=ring.astype(np.float32),
            label=label[column, ring],
            body=np.where(hit >= 0, parts.body[np.maximum(hit, 0)], -1).astype(np.int32),
        )

    def visibility(self, drive: Drive, moment: int, key: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of the rays towards each body (rows ``(M,)``) that nothing else intercepts; 0 where no ray goes."""
        parts = drive.parts
        hits = self._trace(drive, moment, key)
        body = np.where(hits.part >= 0, parts.body[np.maximum(hits.part, 0)], -1)
        free = np.bincount(body.ravel() + 1, minlength=len(drive.bodies) + 1)[1:]
        seen = np.zeros(self.dirs.shape[:2], dtype=bool)
        shares = np.zeros(len(rows))
        for k, row in enumerate(rows):
            own = np.flatnonzero(parts.body == row)
            alone = raycast.silhouette(self.dirs, own, hits.bounds, parts.kind, hits.placed, parts.optics, self._config.max_range, key, seen)
            shares[k] = free[row] / max(alone, 1)
        return np.minimum(shares, 1.0)


def run_blocks(work: Callable[[tuple[int, int]], None], blocks: list[tuple[int, int]], threads: int) -> None:
    """Run ``work(block)`` for every block, over threads when asked (the kernels release the GIL)."""
    if threads == 1:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, blocks))
