"""Things that stand still and carry no box: buildings, trees, poles, signs, hedges, walls and street furniture."""

from __future__ import annotations

import numpy as np

from suite3d.pointcloud.data.street.shapes import (
    BARK,
    BRICK,
    BRICKS,
    CONCRETE,
    FLAT,
    GLASS,
    LEAF,
    METAL,
    PLASTER,
    PLASTIC,
    RETRO,
    WINDOWS,
    Body,
    Colour,
)

WALLS: tuple[Colour, ...] = ((0.72, 0.66, 0.56), (0.58, 0.36, 0.28), (0.80, 0.78, 0.72), (0.52, 0.50, 0.47), (0.66, 0.54, 0.42), (0.46, 0.30, 0.26))
ROOF: Colour = (0.35, 0.20, 0.17)
GREY: Colour = (0.42, 0.43, 0.44)
WOOD: Colour = (0.33, 0.24, 0.17)


def building(rng: np.random.Generator, width: float, depth: float) -> Body:
    """House or block of flats facing +y... its street front is the side at -y; doors, bays and steps stand proud of it.

    Args:
        rng: generator of the drive.
        width: along the street (x), metres.
        depth: away from the street (y), metres.
    """
    wall = WALLS[int(rng.integers(len(WALLS)))]
    material = BRICK if wall[0] < 0.6 else PLASTER
    texture = BRICKS if material is BRICK and rng.random() < 0.3 else WINDOWS
    height = float(rng.uniform(5.0, 18.0) if width > 9 else rng.uniform(4.0, 8.0))
    body = Body("building")
    half, front = width / 2, -depth / 2
    body.box((-half, half), (front, depth / 2), (-1.5, height), material, wall, texture=texture)
    if rng.random() < 0.6:
        body.box((-half - 0.2, half + 0.2), (front - 0.3, depth / 2 + 0.3), (height, height + 0.3 * depth), BRICK, ROOF, top_y=(-0.1, 0.1))
    if rng.random() < 0.7:
        body.box((-half - 0.04, half + 0.04), (front - 0.06, front + 0.2), (-1.5, float(rng.uniform(0.5, 1.1))), CONCRETE, GREY)
    spot = -half + float(rng.uniform(0.5, 2.5))
    while spot < half - 2.0:
        kind = rng.random()
        span = float(rng.uniform(1.0, 2.4))
        right = min(spot + span, half - 0.1)
        if kind < 0.35:
            body.box((spot, right), (front - 0.7, front), (-1.0, 3.0), material, wall, top_x=(spot + 0.15, right - 0.15), texture=FLAT)
        elif kind < 0.6:
            body.box((spot, spot + 1.0), (front - 0.05, front + 0.3), (0.0, 2.1), PLASTIC, WOOD)
            body.box((spot - 0.2, spot + 1.2), (front - 0.6, front), (-1.0, 0.18), CONCRETE, GREY)
        elif kind < 0.85:
            body.box((spot, right), (front - 0.03, front + 0.1), (0.9, 2.3), GLASS, (0.14, 0.18, 0.22))
        else:
            body.box((spot, right), (front - 1.1, front), (3.0, 3.2), CONCRETE, GREY)
        spot += span + float(rng.uniform(0.8, 3.0))
    return body


def tree(rng: np.random.Generator) -> Body:
    """Trunk and a crown of several leafy volumes that let part of the pulses through."""
    height = float(rng.uniform(4.5, 11.0))
    radius = 0.012 * height + float(rng.uniform(0.04, 0.10))
    fork = float(rng.uniform(0.28, 0.42)) * height
    green = (float(rng.uniform(0.16, 0.36)), float(rng.uniform(0.34, 0.48)), float(rng.uniform(0.10, 0.20)))
    lean = rng.uniform(-0.15, 0.15, 2)
    body = Body("vegetation")
    top = (float(lean[0]) * 2, float(lean[1]) * 2, fork + 0.5)
    body.cylinder((0, 0, -0.4), top, radius, BARK, WOOD, label="trunk")
    spread = float(rng.uniform(0.16, 0.28)) * height
    for _ in range(int(rng.integers(3, 7))):
        angle, out = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.2, 0.75)) * spread
        size = spread * float(rng.uniform(0.55, 0.9))
        centre = (top[0] + out * np.cos(angle), top[1] + out * np.sin(angle), float(rng.uniform(fork + 0.6 * size, height - 0.6 * size)))
        body.cylinder(top, centre, 0.4 * radius, BARK, WOOD, label="trunk")
        body.ellipsoid(centre, (size, size, size * float(rng.uniform(0.7, 1.0))), LEAF, green, free_path=float(rng.uniform(0.5, 1.1)))
    return body


def bush(rng: np.random.Generator) -> Body:
    """Low shrub of two or three leafy volumes."""
    green = (float(rng.uniform(0.14, 0.3)), float(rng.uniform(0.3, 0.45)), 0.14)
    body = Body("vegetation")
    for _ in range(int(rng.integers(2, 4))):
        x, y = rng.uniform(-0.5, 0.5, 2)
        size = float(rng.uniform(0.35, 0.8))
        body.ellipsoid((float(x), float(y), 0.6 * size), (size, size, 0.8 * size), LEAF, green, free_path=0.25)
    return body


def lamp_post(rng: np.random.Generator) -> Body:
    """Street lamp with an arm towards +y."""
    height, arm = float(rng.uniform(5.5, 9.0)), float(rng.uniform(0.8, 2.0))
    body = Body("pole")
    body.cylinder((0, 0, -0.3), (0, 0, 1.2), 0.11, METAL, GREY).cylinder((0, 0, 1.2), (0, 0, height), 0.07, METAL, GREY)
    body.cylinder((0, 0, height - 0.05), (0, arm, height + 0.2), 0.04, METAL, GREY)
    body.box((-0.12, 0.12), (arm - 0.2, arm + 0.35), (height + 0.12, height + 0.25), METAL, GREY)
    return body


def traffic_sign(rng: np.random.Generator) -> Body:
    """Pole with a retro-reflecting plate facing along -x."""
    height = float(rng.uniform(2.2, 3.0))
    body = Body("pole")
    body.cylinder((0, 0, -0.3), (0, 0, height), 0.035, METAL, GREY)
    colour = ((0.75, 0.1, 0.1), (0.1, 0.25, 0.65), (0.85, 0.75, 0.1))[int(rng.integers(3))]
    if rng.random() < 0.5:
        body.cylinder((-0.07, 0, height - 0.3), (-0.04, 0, height - 0.3), 0.33, RETRO, colour, label="sign")
    else:
        half = float(rng.uniform(0.25, 0.5))
        body.box((-0.07, -0.04), (-half, half), (height - 0.6, height), RETRO, colour, label="sign")
    return body


def traffic_light(rng: np.random.Generator) -> Body:
    """Signal head on a pole, facing along -x."""
    height = float(rng.uniform(2.9, 3.6))
    body = Body("pole")
    body.cylinder((0, 0, -0.3), (0, 0, height), 0.06, METAL, GREY)
    body.box((-0.2, 0.1), (-0.15, 0.15), (height - 0.9, height), PLASTIC, (0.08, 0.08, 0.08), label="object")
    return body


def bollard(rng: np.random.Generator) -> Body:
    body = Body("pole")
    body.cylinder((0, 0, -0.2), (0, 0, float(rng.uniform(0.8, 1.1))), float(rng.uniform(0.05, 0.11)), METAL, GREY)
    return body


def bin_(rng: np.random.Generator) -> Body:
    """Wheeled or round rubbish bin."""
    body = Body("object")
    colour = ((0.12, 0.25, 0.16), (0.15, 0.16, 0.2), (0.4, 0.32, 0.1))[int(rng.integers(3))]
    height = float(rng.uniform(0.85, 1.25))
    if rng.random() < 0.5:
        body.cylinder((0, 0, -0.1), (0, 0, height), float(rng.uniform(0.2, 0.3)), PLASTIC, colour)
    else:
        half = float(rng.uniform(0.26, 0.6))
        body.box((-half, half), (-0.3, 0.3), (-0.1, height), PLASTIC, colour, top_x=(-half - 0.06, half + 0.06), top_y=(-0.36, 0.36))
    return body


def bench(rng: np.random.Generator) -> Body:
    """Bench along x with its back at -y."""
    half = float(rng.uniform(0.7, 1.0))
    body = Body("object")
    body.box((-half, half), (-0.22, 0.25), (0.40, 0.46), PLASTIC, WOOD).box((-half, half), (-0.28, -0.22), (0.46, 0.85), PLASTIC, WOOD)
    for x in (-half + 0.15, half - 0.15):
        body.box((x - 0.04, x + 0.04), (-0.22, 0.25), (-0.1, 0.40), METAL, GREY)
    return body


def shelter(rng: np.random.Generator) -> Body:
    """Bus shelter along x, open towards +y."""
    half = float(rng.uniform(1.4, 2.2))
    body = Body("object")
    body.box((-half, half), (-0.7, -0.66), (0.1, 2.3), GLASS, (0.3, 0.36, 0.38)).box((-half, half), (-0.75, 0.75), (2.3, 2.42), METAL, GREY)
    for x in (-half, half):
        for y in (-0.66, 0.6):
            body.cylinder((x, y, -0.2), (x, y, 2.3), 0.04, METAL, GREY)
    body.box((half - 0.04, half), (-0.66, 0.2), (0.2, 2.1), RETRO, (0.6, 0.5, 0.3))
    return body


def cabinet(rng: np.random.Generator) -> Body:
    """Switch cabinet at a house front."""
    half = float(rng.uniform(0.3, 0.7))
    body = Body("object")
    body.box((-half, half), (-0.2, 0.2), (-0.2, float(rng.uniform(0.9, 1.5))), PLASTIC, GREY)
    return body


def boundary(rng: np.random.Generator, length: float) -> Body:
    """Front-garden boundary along x: wall, railing or hedge."""
    half = length / 2
    kind = int(rng.integers(3))
    if kind == 0:
        body = Body("fence")
        body.box((-half, half), (-0.12, 0.12), (-1.0, float(rng.uniform(0.4, 1.3))), BRICK, WALLS[int(rng.integers(len(WALLS)))])
    elif kind == 1:
        body, height = Body("fence"), float(rng.uniform(0.8, 1.4))
        body.box((-half, half), (-0.02, 0.02), (-0.3, height), METAL, (0.2, 0.21, 0.2), porosity=0.6)
        for x in np.arange(-half, half + 0.01, 2.0):
            body.cylinder((float(x), 0, -0.4), (float(x), 0, height + 0.1), 0.04, METAL, GREY)
    else:
        body, height = Body("vegetation"), float(rng.uniform(0.7, 1.8))
        body.box((-half, half), (-0.3, 0.3), (-0.5, height), LEAF, (0.17, 0.33, 0.13), porosity=0.15, top_y=(-0.2, 0.2))
    return body


FURNITURE = (bollard, bin_, bench, cabinet, bush, traffic_sign)
