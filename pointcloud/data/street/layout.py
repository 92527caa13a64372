"""Draws a drive: lays the street, fills it, and lets the traffic run."""

from __future__ import annotations

import numpy as np

from suite3d.pointcloud.data.street.config import StreetConfig
from suite3d.pointcloud.data.street.ground import Street
from suite3d.pointcloud.data.street.placement import place_still
from suite3d.pointcloud.data.street.scene import Drive, Scene
from suite3d.pointcloud.data.street.shapes import CLASS_NAMES, Parts
from suite3d.pointcloud.data.street.traffic import EgoDrive, place_traffic


def lay_out(config: StreetConfig, rng: np.random.Generator) -> Drive:
    """Draw a drive. Everything random comes from ``rng``."""
    times = np.asarray((np.arange(config.frames + 2) - 1.0) / config.frame_rate, dtype=np.float64)
    ego = EgoDrive.draw(rng)
    travel = float(ego.progress(times[-1:])[0])
    reach = config.max_range + 10.0
    street = Street(rng, behind=reach + 5.0, ahead=travel + reach + 5.0, reach=reach)
    scene = Scene(street, times)
    span = (-reach, travel + reach)
    place_still(scene, rng, config, span)
    ego_path = place_traffic(scene, rng, config, span, ego)
    sensor = np.concatenate([ego_path[:, :2], (street.height(ego_path[:, :2]) + config.sensor_height)[:, None], ego_path[:, 2:]], axis=1)
    boxed = np.array([body.name in CLASS_NAMES for body in scene.bodies], dtype=bool)
    return Drive(
        street=street,
        bodies=scene.bodies,
        parts=Parts.pack(scene.bodies),
        poses=scene.poses(),
        sizes=np.array([body.size for body in scene.bodies]).reshape(-1, 3),
        tracks=np.where(boxed, np.cumsum(boxed), 0).astype(np.int64),
        ego=sensor,
    )
