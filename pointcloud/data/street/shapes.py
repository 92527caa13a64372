"""Rigid bodies built from ray-castable parts: tapered boxes, ellipsoids, cylinders and leafy volumes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BOX, ELLIPSOID, CYLINDER, LEAVES = range(4)
"""Kinds of part. ``LEAVES`` is an ellipsoid volume in which a ray travels an exponential free path."""

PARAMS = 24
"""Floats per part: 6 planes (n, c) with n.p <= c | centre and radii [, mean free path] | foot, axis, length, radius."""

POINT_CLASSES = (
    "unlabelled",
    "road",
    "marking",
    "sidewalk",
    "terrain",
    "building",
    "fence",
    "pole",
    "sign",
    "trunk",
    "vegetation",
    "object",
    "Car",
    "Van",
    "Truck",
    "Pedestrian",
    "Cyclist",
)
"""Names of the semantic ids in ``Frame.point_labels``."""

CLASS_NAMES = ("Car", "Van", "Truck", "Pedestrian", "Cyclist")
"""Classes that carry boxes."""

FLAT, WINDOWS, BRICKS = range(3)
"""Camera textures."""


@dataclass(frozen=True)
class Material:
    """How a surface answers the laser.

    Attributes:
        reflectivity: at normal incidence, 0-1 (1 saturates the intensity).
        diffuse: share that falls off with the cosine of incidence; the rest does not.
        lost: share of pulses that never come back (transmitted or mirrored away).
    """

    reflectivity: float
    diffuse: float = 0.8
    lost: float = 0.0


GLASS = Material(0.10, 0.9, 0.6)
RUBBER = Material(0.06)
METAL = Material(0.45, 0.6)
CONCRETE = Material(0.30)
BRICK = Material(0.38)
PLASTER = Material(0.50)
BARK = Material(0.22)
LEAF = Material(0.42, 0.5)
CLOTH = Material(0.35, 0.7)
SKIN = Material(0.55)
RETRO = Material(1.0, 0.1)
PLASTIC = Material(0.25, 0.7)

Colour = tuple[float, float, float]
Point = tuple[float, float, float]
Span = tuple[float, float]
_LABEL = {name: number for number, name in enumerate(POINT_CLASSES)}


def paint(colour: Colour) -> Material:
    """Car paint: bright colours reflect the laser, dark ones hardly."""
    return Material(0.08 + 0.5 * sum(colour) / 3, 0.75, 0.05)


@dataclass(slots=True)
class Part:
    """One primitive in its body's frame (x forward, y left, z up from the ground); plain floats, packed later."""

    kind: int
    params: list[float]
    low: list[float]
    high: list[float]
    material: Material
    colour: Colour
    label: int
    porosity: float
    texture: int


@dataclass
class Body:
    """A rigid thing standing in the street.

    Attributes:
        name: a name out of :data:`POINT_CLASSES`; parts may carry other labels (trunk and vegetation of a tree).
        parts: the primitives.
    """

    name: str
    parts: list[Part] = field(default_factory=list)

    def box(
        self,
        x: Span,
        y: Span,
        z: Span,
        material: Material,
        colour: Colour,
        *,
        top_x: Span | None = None,
        top_y: Span | None = None,
        label: str = "",
        porosity: float = 0.0,
        texture: int = FLAT,
    ) -> Body:
        """Add a box, tapered towards ``top_x`` / ``top_y`` at its upper face."""
        tx, ty = top_x or x, top_y or y
        low, rise = z[0], z[1] - z[0]
        planes = [0.0, 0.0, -1.0, -low, 0.0, 0.0, 1.0, z[1]]
        for axis, bottom, top in ((0, x, tx), (1, y, ty)):
            for side, sign in ((0, -1.0), (1, 1.0)):
                lean = bottom[side] - top[side]
                size = math.hypot(rise, lean)
                out, up = sign * rise / size, sign * lean / size
                planes += [out, 0.0, up] if axis == 0 else [0.0, out, up]
                planes.append(out * bottom[side] + up * low)
        least = [min(x[0], tx[0]), min(y[0], ty[0]), low]
        most = [max(x[1], tx[1]), max(y[1], ty[1]), z[1]]
        self.parts.append(Part(BOX, planes, least, most, material, colour, _LABEL[label or self.name], porosity, texture))
        return self

    def ellipsoid(self, centre: Point, radii: Point, material: Material, colour: Colour, *, label: str = "", free_path: float = 0.0) -> Body:
        """Add an ellipsoid; with ``free_path`` > 0 (metres) it is a leafy volume instead of a surface."""
        low, high = [c - r for c, r in zip(centre, radii, strict=True)], [c + r for c, r in zip(centre, radii, strict=True)]
        kind = LEAVES if free_path else ELLIPSOID
        self.parts.append(Part(kind, [*centre, *radii, free_path], low, high, material, colour, _LABEL[label or self.name], 0.0, FLAT))
        return self

    def cylinder(
        self, start: Point, end: Point, radius: float, material: Material, colour: Colour, *, label: str = "", porosity: float = 0.0
    ) -> Body:
        """Add a capped cylinder between two points."""
        gap = [b - a for a, b in zip(start, end, strict=True)]
        length = math.hypot(*gap)
        axis = [g / length for g in gap]
        reach = [radius * math.sqrt(max(0.0, 1.0 - a * a)) for a in axis]  # extent of a disc of that normal along each axis
        low = [min(a, b) - r for a, b, r in zip(start, end, reach, strict=True)]
        high = [max(a, b) + r for a, b, r in zip(start, end, reach, strict=True)]
        self.parts.append(Part(CYLINDER, [*start, *axis, length, radius], low, high, material, colour, _LABEL[label or self.name], porosity, FLAT))
        return self

    @property
    def low(self) -> list[float]:
        return [min(part.low[k] for part in self.parts) for k in range(3)]

    @property
    def high(self) -> list[float]:
        return [max(part.high[k] for part in self.parts) for k in range(3)]

    @property
    def size(self) -> NDArray[np.float64]:
        """``(3,)`` extents along x, y, z, metres."""
        return np.subtract(self.high, self.low)

    def settle(self) -> Body:
        """Move the parts so that their bounding box is centred on the body's axis and stands on z = 0."""
        low, high = self.low, self.high
        shift = [-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2]]
        for part in self.parts:
            part.low = [a + b for a, b in zip(part.low, shift, strict=True)]
            part.high = [a + b for a, b in zip(part.high, shift, strict=True)]
            q = part.params
            if part.kind == BOX:
                for k in range(0, 24, 4):
                    q[k + 3] += q[k] * shift[0] + q[k + 1] * shift[1] + q[k + 2] * shift[2]
            else:
                q[:3] = [a + b for a, b in zip(q[:3], shift, strict=True)]
        return self


@dataclass(kw_only=True)
class Parts:
    """All parts of a drive as arrays, for the ray caster: P parts of B bodies.

    Attributes:
        kind: ``(P,)`` int8.
        body: ``(P,)`` int32 row of the body.
        params: ``(P, PARAMS)`` float64 in the body's frame.
        low, high: ``(P, 3)`` float64 bounding box in the body's frame, metres.
        optics: ``(P, 4)`` float64 reflectivity, diffuse share, lost share, porosity.
        label: ``(P,)`` int64 semantic id.
        colour: ``(P, 3)`` float64 in [0, 1].
        texture: ``(P,)`` int8.
    """

    kind: NDArray[np.int8]
    body: NDArray[np.int32]
    params: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    optics: NDArray[np.float64]
    label: NDArray[np.int64]
    colour: NDArray[np.float64]
    texture: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.kind)

    @staticmethod
    def pack(bodies: list[Body]) -> Parts:
        """Stack the parts of all bodies."""
        flat = [(row, part) for row, body in enumerate(bodies) for part in body.parts]
        parts = [part for _, part in flat]
        count = len(parts)
        return Parts(
            kind=np.array([part.kind for part in parts], dtype=np.int8),
            body=np.array([row for row, _ in flat], dtype=np.int32),
            params=np.array([part.params + [0.0] * (PARAMS - len(part.params)) for part in parts]).reshape(count, PARAMS),
            low=np.array([part.low for part in parts]).reshape(count, 3),
            high=np.array([part.high for part in parts]).reshape(count, 3),
            optics=np.array([[part.material.reflectivity, part.material.diffuse, part.material.lost, part.porosity] for part in parts]).reshape(
                count, 4
            ),
            label=np.array([part.label for part in parts], dtype=np.int64),
            colour=np.array([part.colour for part in parts]).reshape(count, 3),
            texture=np.array([part.texture for part in parts], dtype=np.int8),
        )
