"""Where the still things of a drive stand: houses, trees, furniture and parked vehicles."""

from __future__ import annotations

import numpy as np

from suite3d.pointcloud.data.street import scenery
from suite3d.pointcloud.data.street.config import StreetConfig
from suite3d.pointcloud.data.street.models import MODELS
from suite3d.pointcloud.data.street.scene import Scene
from suite3d.pointcloud.data.street.shapes import Body

SIDES = ((1, 0), (-1, 1))
"""(sign of the offset, row in the street's left / right lists)."""


def place_still(scene: Scene, rng: np.random.Generator, config: StreetConfig, span: tuple[float, float]) -> None:
    """Fill both sides of the street over ``span`` (metres along it)."""
    for sign, k in SIDES:
        _houses(scene, rng, sign, k, span)
    _park(scene, rng, config, span)
    for sign, k in SIDES:
        _street_trees(scene, rng, config, sign, k, span)
        _lamps(scene, rng, config, sign, k, span)
        _furniture(scene, rng, config, sign, k, span)
        _gardens(scene, rng, config, sign, k, span)
    _corners(scene, rng, config)


def _in_side_street(scene: Scene, length: float, sign: int, clearance: float) -> bool:
    return any(
        abs(length - street.length) < street.half + clearance for street in scene.street.side_streets if (street.left if sign > 0 else street.right)
    )


def _front(scene: Scene, k: int) -> float:
    """Offset of the house fronts."""
    return scene.street.half[k] + scene.street.walk[k] + scene.street.yard[k]


def _houses(scene: Scene, rng: np.random.Generator, sign: int, k: int, span: tuple[float, float]) -> None:
    front, length = _front(scene, k) + 0.4, span[0]
    while length < span[1]:
        width, depth = float(rng.uniform(6.0, 22.0)), float(rng.uniform(7.0, 13.0))
        middle = length + width / 2
        turn = 0.0 if sign > 0 else np.pi  # the body's street side is its -y
        if not _in_side_street(scene, middle, sign, width / 2 + 2.0):
            path = scene.path(np.array(middle), np.array(sign * (front + depth / 2 + width**2 / 600)), turn)
            scene.put(scenery.building(rng, width, depth), path, margin=None, footprint=np.array([width, depth]))
            length += width
            gap = rng.random()
            length += float(0.1 if gap < 0.5 else rng.uniform(1.5, 4.0) if gap < 0.85 else rng.uniform(6.0, 18.0))
        else:
            length += 3.0
        if rng.random() < 0.25:
            path = scene.path(np.array(middle), np.array(sign * (front + float(rng.uniform(24, 45)))), turn + float(rng.uniform(-0.3, 0.3)))
            size = float(rng.uniform(10, 24))
            scene.put(scenery.building(rng, size, 10.0), path, margin=0.0)


def _vehicle(rng: np.random.Generator, shares: tuple[float, float, float]) -> Body:
    return MODELS[str(rng.choice(["Car", "Van", "Truck"], p=shares))](rng)


def _park(scene: Scene, rng: np.random.Generator, config: StreetConfig, span: tuple[float, float]) -> None:
    for sign, k in SIDES:
        style, kerb = scene.street.parking[k], scene.street.half[k]
        fill = min(0.95, config.parked * float(rng.uniform(0.3, 0.85)))
        if style == "none":
            continue
        length = span[0] + float(rng.uniform(0, 5))
        while length < span[1]:
            if rng.random() > fill or config.parked == 0:
                length += float(rng.uniform(2.5, 6.0))
                continue
            body = _vehicle(rng, (0.84, 0.12, 0.04) if style == "parallel" else (0.92, 0.08, 0.0))
            size = body.size
            along, wide = (size[0], size[1]) if style == "parallel" else (size[1], size[0])
            middle = length + along / 2
            clear = not _in_side_street(scene, middle, sign, along / 2 + 3.0) and abs(middle - scene.street.crossing - 1.5) > along / 2 + 2.5
            if style == "parallel":
                facing = (np.pi if sign > 0 else 0.0) + (np.pi if rng.random() < 0.12 else 0.0) + float(rng.normal(0, 0.025))
                offset = kerb - wide / 2 - float(rng.uniform(0.08, 0.3))
            else:
                facing = sign * np.pi / 2 + (np.pi if rng.random() < 0.4 else 0.0) + float(rng.normal(0, 0.03))
                offset = kerb - wide / 2 - float(rng.uniform(0.1, 0.4))
            if clear:
                scene.put(body, scene.path(np.array(middle), np.array(sign * offset), facing), margin=0.1)
            length += along + float(rng.uniform(0.5, 1.6) if style == "parallel" else rng.uniform(0.6, 1.0))
        _driveways(scene, rng, config, sign, k, span)
    _park_side_streets(scene, rng, config)


def _driveways(scene: Scene, rng: np.random.Generator, config: StreetConfig, sign: int, k: int, span: tuple[float, float]) -> None:
    """Cars in front gardens and gaps between houses, at right angles to the street."""
    for length in np.arange(span[0], span[1], 14.0) + rng.uniform(0, 8):
        if rng.random() < 0.5 * config.parked:
            body = _vehicle(rng, (0.85, 0.15, 0.0))
            offset = scene.street.half[k] + scene.street.walk[k] + 0.4 + body.size[0] / 2
            facing = sign * np.pi / 2 * (1 if rng.random() < 0.6 else -1) + float(rng.normal(0, 0.05))
            scene.put(body, scene.path(np.array(length), np.array(sign * offset), facing), margin=0.25)


def _park_side_streets(scene: Scene, rng: np.random.Generator, config: StreetConfig) -> None:
    for street in scene.street.side_streets:
        for sign, k in SIDES:
            if not (street.left if sign > 0 else street.right):
                continue
            for edge in (-1, 1):
                out = scene.street.half[k] + 8.0 + float(rng.uniform(0, 4))
                while out < 55.0:
                    body = _vehicle(rng, (0.85, 0.12, 0.03))
                    if rng.random() < 0.45 * config.parked and street.half > 3.4:
                        across = edge * (street.half - body.size[1] / 2 - 0.15)
                        base = scene.path(np.array(street.length), np.array(0.0))[0]
                        x = base[0] + across * np.cos(base[2]) - sign * (out + body.size[0] / 2) * np.sin(base[2])
                        y = base[1] + across * np.sin(base[2]) + sign * (out + body.size[0] / 2) * np.cos(base[2])
                        facing = base[2] + np.pi / 2 * (1 if rng.random() < 0.5 else -1) + float(rng.normal(0, 0.02))
                        scene.put(body, np.array([[x, y, facing]]), margin=0.2)
                    out += body.size[0] + float(rng.uniform(0.7, 4.0))


def _street_trees(scene: Scene, rng: np.random.Generator, config: StreetConfig, sign: int, k: int, span: tuple[float, float]) -> None:
    if rng.random() > 0.75 * min(config.vegetation, 1.3):
        return
    pitch = float(rng.uniform(8.0, 16.0)) / max(config.vegetation, 0.3)
    for length in np.arange(span[0], span[1], pitch) + rng.uniform(0, pitch):
        if rng.random() < 0.8 and not _in_side_street(scene, length, sign, 2.0):
            path = scene.path(np.array(length), np.array(sign * (scene.street.half[k] + 0.75)), float(rng.uniform(0, 2 * np.pi)))
            scene.put(scenery.tree(rng), path, margin=0.15, footprint=np.array([0.6, 0.6]))


def _lamps(scene: Scene, rng: np.random.Generator, config: StreetConfig, sign: int, k: int, span: tuple[float, float]) -> None:
    pitch = float(rng.uniform(22.0, 35.0))
    for length in np.arange(span[0], span[1], pitch) + rng.uniform(0, pitch):
        if not _in_side_street(scene, length, sign, 1.0) and config.clutter > 0:
            path = scene.path(np.array(length), np.array(sign * (scene.street.half[k] + 0.45)), np.pi if sign > 0 else 0.0)
            scene.put(scenery.lamp_post(rng), path, margin=0.1, footprint=np.array([0.25, 0.25]))


def _furniture(scene: Scene, rng: np.random.Generator, config: StreetConfig, sign: int, k: int, span: tuple[float, float]) -> None:
    """Bins, bollards, benches, signs at the kerb or against the house fronts."""
    for _ in range(int(rng.poisson(config.clutter * (span[1] - span[0]) / 12.0))):
        length = float(rng.uniform(*span))
        if _in_side_street(scene, length, sign, 1.0):
            continue
        body = scenery.FURNITURE[int(rng.integers(len(scenery.FURNITURE)))](rng)
        kerbside = rng.random() < 0.55
        offset = scene.street.half[k] + (0.55 if kerbside else scene.street.walk[k] - 0.5)
        scene.put(body, scene.path(np.array(length), np.array(sign * offset), 0.0 if sign < 0 else np.pi), margin=0.1)
    if config.clutter > 0 and rng.random() < 0.35:
        length = float(rng.uniform(-10, 50))
        if not _in_side_street(scene, length, sign, 3.0):
            path = scene.path(np.array(length), np.array(sign * (scene.street.half[k] + 1.2)), np.pi if sign > 0 else 0.0)
            scene.put(scenery.shelter(rng), path, margin=0.2)


def _gardens(scene: Scene, rng: np.random.Generator, config: StreetConfig, sign: int, k: int, span: tuple[float, float]) -> None:
    if scene.street.yard[k] < 1.5:
        return
    boundary = scene.street.half[k] + scene.street.walk[k] + 0.25
    length = span[0]
    while length < span[1]:
        size = float(rng.uniform(3.0, 9.0))
        if rng.random() < 0.6 and not _in_side_street(scene, length, sign, size / 2 + 2.5):
            scene.put(scenery.boundary(rng, size), scene.path(np.array(length), np.array(sign * boundary)), margin=0.1)
        if rng.random() < 0.35 * config.vegetation:
            offset = boundary + float(rng.uniform(1.0, scene.street.yard[k] + 0.2))
            planting = scenery.tree(rng) if rng.random() < 0.4 else scenery.bush(rng)
            scene.put(planting, scene.path(np.array(length), np.array(sign * offset)), margin=0.2, footprint=np.array([0.8, 0.8]))
        length += size + float(rng.uniform(0.3, 4.0))


def _corners(scene: Scene, rng: np.random.Generator, config: StreetConfig) -> None:
    """Traffic lights or signs where a side street meets the street."""
    if config.clutter == 0:
        return
    for street in scene.street.side_streets:
        lights = rng.random() < 0.5
        for sign, k in SIDES:
            if street.left if sign > 0 else street.right:
                for edge in (-1, 1):
                    body = scenery.traffic_light(rng) if lights else scenery.traffic_sign(rng)
                    path = scene.path(
                        np.array(street.length + edge * (street.half + 1.0)),
                        np.array(sign * (scene.street.half[k] + 0.6)),
                        0.0 if sign < 0 else np.pi,
                    )
                    scene.put(body, path, margin=0.05, footprint=np.array([0.3, 0.3]))
