"""Everything that moves: the ego vehicle, lanes of vehicles, crossing traffic, cyclists and pedestrians.

Vehicles of a lane share a speed profile, so they keep their distance; whatever is added later is tried against every
footprint at every frame and left out if it would touch one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.street.config import StreetConfig
from suite3d.pointcloud.data.street.models import MODELS
from suite3d.pointcloud.data.street.scene import Scene

Array = NDArray[np.float64]
EGO_SIZE = np.array([4.6, 1.85])
"""Footprint kept clear around the LiDAR, metres; the ego vehicle itself is not rendered."""


@dataclass(frozen=True)
class EgoDrive:
    """Speed profile v(t) = speed (1 + swing sin(rate t + phase)) of a lane.

    Attributes:
        speed: mean, m/s.
        swing: 0-1.
        rate: rad/s.
        phase: rad.
    """

    speed: float
    swing: float
    rate: float
    phase: float

    @staticmethod
    def draw(rng: np.random.Generator, *, slowest: float = 2.0, fastest: float = 13.0) -> EgoDrive:
        return EgoDrive(
            speed=float(rng.uniform(slowest, fastest)),
            swing=float(rng.uniform(0.0, 0.6)),
            rate=float(rng.uniform(0.4, 0.9)),
            phase=float(rng.uniform(0, 2 * np.pi)),
        )

    def progress(self, times: Array) -> Array:
        """Metres driven since time 0."""
        return self.speed * times + self.speed * self.swing / self.rate * (np.cos(self.phase) - np.cos(self.rate * times + self.phase))


def place_traffic(scene: Scene, rng: np.random.Generator, config: StreetConfig, span: tuple[float, float], ego: EgoDrive) -> Array:
    """Add everything that moves; returns the ego's path ``(F + 2, 3)``."""
    forward = [offset for offset, direction in scene.street.lanes if direction > 0]
    own = float(rng.choice(forward))
    travelled = ego.progress(scene.times)
    path = scene.path(travelled, np.full(len(scene.times), own))
    scene.occupancy.add(path, EGO_SIZE)
    for offset, direction in scene.street.lanes:
        profile = ego if offset == own else EgoDrive.draw(rng) if rng.random() < 0.85 else EgoDrive(speed=0.0, swing=0.0, rate=1.0, phase=0.0)
        _lane(scene, rng, config, span, offset=offset, direction=direction, profile=profile, ego=ego)
    _crossing_vehicles(scene, rng, config)
    _cyclists(scene, rng, config, span)
    _walkers(scene, rng, config, span)
    _crossing_pedestrians(scene, rng, config, travelled)
    return path


def _lane(
    scene: Scene,
    rng: np.random.Generator,
    config: StreetConfig,
    span: tuple[float, float],
    *,
    offset: float,
    direction: int,
    profile: EgoDrive,
    ego: EgoDrive,
) -> None:
    if config.traffic == 0:
        return
    progress = direction * profile.progress(scene.times)
    low, high = span[0] - max(progress.max(), 0.0), span[1] - min(progress.min(), 0.0)
    spacing = float(rng.uniform(14.0, 45.0)) / config.traffic * (0.35 if profile.speed == 0 else 1.0)
    at = low + float(rng.uniform(0, spacing))
    while at < high:
        body = MODELS[str(rng.choice(["Car", "Van", "Truck"], p=[0.78, 0.13, 0.09]))](rng)
        sway = float(rng.uniform(0.0, 1.2)) if profile.speed > 3 else 0.0
        own = at + progress + sway * np.sin(0.5 * scene.times + float(rng.uniform(0, 6)))
        tailgates = profile is ego and abs(at) < 4.0 + body.size[0] / 2 + EGO_SIZE[0] / 2
        if own.min() < span[1] and own.max() > span[0] and not tailgates:
            drift = offset + float(rng.normal(0, 0.12))
            scene.put(body, scene.path(own, np.full(len(own), drift), 0.0 if direction > 0 else np.pi), margin=0.3)
        at += body.size[0] + 2.5 + 2 * 1.2 + float(rng.exponential(spacing))


def _crossing_vehicles(scene: Scene, rng: np.random.Generator, config: StreetConfig) -> None:
    """Vehicles in side streets: waiting at the mouth, or driving straight across where the street goes through."""
    for street in scene.street.side_streets:
        base = scene.path(np.array(street.length), np.array(0.0))[0]
        across = np.array([-np.sin(base[2]), np.cos(base[2])])
        along = np.array([np.cos(base[2]), np.sin(base[2])])
        for sign in (1, -1):  # +1 drives to the left of the main street
            if rng.random() > 0.7 * config.traffic:
                continue
            body = MODELS[str(rng.choice(["Car", "Van", "Truck"], p=[0.82, 0.13, 0.05]))](rng)
            arrives = street.right if sign > 0 else street.left
            if not arrives:
                continue
            lane = base[:2] + sign * street.half / 2.2 * along  # right-hand side of its own direction
            k = 1 if sign > 0 else 0
            if street.left and street.right and rng.random() < 0.6:
                speed = float(rng.uniform(4, 9))
                out = sign * (float(rng.uniform(-30, 20)) + speed * scene.times)
            else:
                out = np.full(len(scene.times), -sign * (scene.street.half[k] + body.size[0] / 2 + float(rng.uniform(0.5, 2.0))))
            path = np.concatenate([lane + out[:, None] * across, np.full((len(out), 1), base[2] + sign * np.pi / 2)], axis=1)
            scene.put(body, path, margin=0.3)


def _cyclists(scene: Scene, rng: np.random.Generator, config: StreetConfig, span: tuple[float, float]) -> None:
    for sign, k, direction in ((1, 0, -1), (-1, 1, 1)):
        wide = scene.street.bike[k] > 1.0
        offset = sign * (scene.street.edge + (scene.street.bike[k] / 2 if wide else -0.55))
        for _ in range(int(rng.poisson(config.cyclists * (span[1] - span[0]) / 32.0))):
            speed = float(rng.uniform(2.5, 7.0)) * (0.0 if rng.random() < 0.1 else 1.0)
            start = float(rng.uniform(span[0], span[1])) - direction * speed * scene.times[-1] / 2
            at = start + direction * speed * scene.times
            weave = float(rng.uniform(0, 0.12)) * np.sin(float(rng.uniform(0.8, 1.6)) * scene.times)
            facing = 0.0 if direction > 0 else np.pi
            scene.put(MODELS["Cyclist"](rng), scene.path(at, offset + weave, facing), margin=0.25)


def _walkers(scene: Scene, rng: np.random.Generator, config: StreetConfig, span: tuple[float, float]) -> None:
    """Pedestrians on the pavements, alone or in pairs, some of them standing."""
    for sign, k in ((1, 0), (-1, 1)):
        for _ in range(int(rng.poisson(config.pedestrians * (span[1] - span[0]) / 9.0))):
            direction = 1 if rng.random() < 0.5 else -1
            speed = 0.0 if rng.random() < 0.2 else float(rng.uniform(0.7, 1.9))
            start, offset = float(rng.uniform(*span)), float(rng.uniform(1.2, scene.street.walk[k] - 0.4))
            turn = (0.0 if direction > 0 else np.pi) if speed else float(rng.uniform(0, 2 * np.pi))
            company = 2 if rng.random() < 0.25 else 1
            for friend in range(company):
                at = start + direction * speed * scene.times + 0.15 * friend
                beside = sign * (scene.street.half[k] + offset + 0.75 * friend)
                scene.put(MODELS["Pedestrian"](rng), scene.path(at, np.full(len(at), beside), turn), margin=0.12)


def _crossing_pedestrians(scene: Scene, rng: np.random.Generator, config: StreetConfig, travelled: Array) -> None:
    """Pedestrians crossing the street, at the zebra crossing or anywhere ahead of the ego."""
    for _ in range(int(rng.poisson(3.0 * config.pedestrians))):
        zebra = rng.random() < 0.6
        length = scene.street.crossing + float(rng.uniform(0.3, 2.9)) if zebra else float(rng.uniform(5.0, travelled[-1] + 50.0))
        direction = 1 if rng.random() < 0.5 else -1
        speed = float(rng.uniform(0.9, 1.8))
        start = float(rng.uniform(-scene.street.half[1] - 1.0, scene.street.half[0] + 1.0))
        start -= direction * speed * scene.times[-1] / 2
        kerbs = (-scene.street.half[1] - 2.0, scene.street.half[0] + 2.0)  # they stop on the far pavement
        offset = np.clip(start + direction * speed * scene.times, *kerbs)
        path = scene.path(np.full(len(offset), length), offset, direction * np.pi / 2)
        scene.put(MODELS["Pedestrian"](rng), path, margin=0.25)
