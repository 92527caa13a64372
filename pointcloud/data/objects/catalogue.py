"""The fifteen procedural object classes: the class is the shape, everything else about an object is drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from suite3d.pointcloud.data.objects.mesh import Mesh, join
from suite3d.pointcloud.data.objects.primitives import (
    box,
    cross_outline,
    cylinder,
    extrude,
    gear_outline,
    lathe,
    star_outline,
    superquadric,
    supertoroid,
)

Rng = np.random.Generator
_SIDE = np.array([(1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)])  # z -> y: what stood lies


def ellipsoid(rng: Rng) -> Mesh:
    return superquadric(north=rng.uniform(0.8, 1.2), east=rng.uniform(0.8, 1.2)).scaled(*rng.uniform(0.5, 1.0, 3))


def brick(rng: Rng) -> Mesh:
    return superquadric(north=rng.uniform(0.05, 0.3), east=rng.uniform(0.05, 0.3)).scaled(*rng.uniform(0.4, 1.0, 3))


def can(rng: Rng) -> Mesh:
    return superquadric(north=rng.uniform(0.05, 0.2), east=1.0).scaled(*([rng.uniform(0.3, 0.6)] * 2), 1.0)


def cone(rng: Rng) -> Mesh:
    return cylinder(rng.uniform(0.4, 0.9), 1.6, top=rng.uniform(0.0, 0.1))


def ring(rng: Rng) -> Mesh:
    return supertoroid(ring=1.0, tube=rng.uniform(0.15, 0.4), north=rng.uniform(0.3, 1.2))


def vase(rng: Rng) -> Mesh:
    """Foot, belly, neck and lip, open at the top."""
    belly, neck = rng.uniform(0.5, 0.8), rng.uniform(0.15, 0.3)
    foot, lip, place = rng.uniform(0.25, 0.45), neck + rng.uniform(0.05, 0.25), rng.uniform(0.3, 0.5)
    knots = np.array([(foot, 0.0), (belly, place), (neck, 0.78), (lip, 1.0)])
    z = np.linspace(0, 1, 17)
    smooth = np.interp(z, knots[:, 1], knots[:, 0])
    smooth[1:-1] = (smooth[:-2] + smooth[1:-1] + smooth[2:]) / 3
    return lathe([(0.0, 0.0), *zip(smooth, 2 * z, strict=True)])


def bowl(rng: Rng) -> Mesh:
    """A thin cut sphere, open at the top."""
    angle = np.linspace(0, rng.uniform(0.35, 0.5) * np.pi, 12)
    outside = np.stack([np.sin(angle), -np.cos(angle)], axis=1)
    inside = outside[::-1] * (1 - rng.uniform(0.05, 0.15))
    return lathe(np.concatenate([outside, inside])).scaled(1.0, 1.0, rng.uniform(0.6, 1.1))


def goblet(rng: Rng) -> Mesh:
    """Foot, thin stem, cup."""
    foot, cup, stem = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.65), rng.uniform(0.6, 1.0)
    thin, depth = rng.uniform(0.05, 0.1), rng.uniform(0.6, 1.0)
    angle = np.linspace(0.15, 0.5, 8) * np.pi
    bulge = np.stack([cup * np.sin(angle), stem + depth * (1 - np.cos(angle))], axis=1)
    return lathe([(0.0, 0.0), (foot, 0.0), (foot * 0.9, 0.06), (thin, 0.12), (thin, stem), *bulge])


def star(rng: Rng) -> Mesh:
    return extrude(star_outline(int(rng.integers(5, 8)), rng.uniform(0.35, 0.55)), rng.uniform(0.2, 0.6))


def cross(rng: Rng) -> Mesh:
    return extrude(cross_outline(rng.uniform(0.2, 0.35)), rng.uniform(0.3, 0.8))


def gear(rng: Rng) -> Mesh:
    return extrude(gear_outline(int(rng.integers(9, 15)), rng.uniform(0.75, 0.85)), rng.uniform(0.2, 0.5))


def table(rng: Rng) -> Mesh:
    """A top, round or not, on four legs."""
    x, y, height, leg = rng.uniform(0.7, 1.2), rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.9), rng.uniform(0.05, 0.1)
    top = cylinder(0.5, 0.08).scaled(2 * x, 2 * y, 1.0) if rng.random() < 0.3 else box(2 * x, 2 * y, 0.08)
    spread = 0.62 if rng.random() < 0.3 else 0.8
    return join([top.shifted(z=height), *_legs(spread * x, spread * y, height, leg)])


def chair(rng: Rng) -> Mesh:
    """A seat on four legs with a back."""
    side, height, back, leg = rng.uniform(0.4, 0.55), rng.uniform(0.4, 0.6), rng.uniform(0.5, 0.9), rng.uniform(0.04, 0.08)
    lean = np.array([(1.0, 0.0, rng.uniform(-0.2, 0.0)), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
    rest = box(0.06, 2 * side, back).moved(lean).shifted(x=-side, z=height)
    return join([box(2 * side, 2 * side, 0.07).shifted(z=height), rest, *_legs(0.9 * side, 0.9 * side, height, leg)])


def mug(rng: Rng) -> Mesh:
    """An open cylinder with a handle."""
    radius, height = rng.uniform(0.4, 0.6), rng.uniform(0.8, 1.2)
    size, wall = rng.uniform(0.25, 0.35) * height, 0.9
    body = lathe([(0, 0), (radius, 0), (radius, height), (wall * radius, height), (wall * radius, 0.05), (0, 0.05)])
    handle = supertoroid(ring=size, tube=rng.uniform(0.05, 0.09), arc=1.1 * np.pi).moved(_SIDE).shifted(x=radius, z=height / 2)
    return join([body, handle])


def dumbbell(rng: Rng) -> Mesh:
    """Two weights on a bar."""
    length, bar = rng.uniform(0.5, 0.9), rng.uniform(0.06, 0.12)
    weight = superquadric(north=rng.choice([0.1, 1.0]), east=1.0).scaled(*([rng.uniform(0.3, 0.5)] * 2), rng.uniform(0.2, 0.4))
    stick = cylinder(bar, 2 * length).shifted(z=-length)
    return join([stick, weight.shifted(z=length), weight.shifted(z=-length)]).moved(_SIDE)


def _legs(x: float, y: float, height: float, width: float) -> list[Mesh]:
    leg = box(width, width, height)
    return [leg.shifted(sx * x, sy * y) for sx in (-1, 1) for sy in (-1, 1)]


CATALOGUE: tuple[Callable[[Rng], Mesh], ...] = (
    ellipsoid,
    brick,
    can,
    cone,
    ring,
    vase,
    bowl,
    goblet,
    star,
    cross,
    gear,
    table,
    chair,
    mug,
    dumbbell,
)
"""One function a class: a generator to a mesh, z up, of about unit size."""
