"""Triangle meshes of objects: the OFF and OBJ formats, and points drawn evenly over the surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.source import BadSample


@dataclass(frozen=True)
class Mesh:
    """Triangles in space.

    Attributes:
        vertices: ``(V, 3)`` float64.
        faces: ``(F, 3)`` int64 rows of ``vertices``, counter-clockwise seen from outside.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]

    def moved(self, linear: NDArray[np.float64], shift: Sequence[float] | NDArray[np.float64] = (0.0, 0.0, 0.0)) -> Mesh:
        """Seen through ``x -> linear x + shift``; a reflection turns the faces round, so that they still look outwards."""
        faces = self.faces if np.linalg.det(linear) > 0 else self.faces[:, ::-1]
        return Mesh(self.vertices @ np.asarray(linear).T + np.asarray(shift), faces)

    def scaled(self, *factors: float) -> Mesh:
        """Stretched by three factors, along x, y and z."""
        return self.moved(np.diag(factors))

    def shifted(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
        return self.moved(np.eye(3), (x, y, z))


def join(parts: Sequence[Mesh]) -> Mesh:
    """Several meshes as one; surfaces inside one another stay, as in the models that people publish."""
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = [part.faces + start for part, start in zip(parts, starts[:-1], strict=True)]
    return Mesh(np.concatenate([part.vertices for part in parts]), np.concatenate(faces))


def sample_surface(mesh: Mesh, count: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points evenly over the area of a mesh, and their unit normals: ``(count, 3)`` twice.

    A triangle is drawn with probability proportional to its area, the point in it by ``(1 - sqrt u) a + sqrt u (1 - v) b + sqrt u v c``
    (Osada et al., "Shape Distributions", 2002, section 4.1).

    Raises:
        ValueError: no face with an area, or coordinates that are not finite.
    """
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))  # [F, 3] each
    normal = np.cross(b - a, c - a)
    area = np.linalg.norm(normal, axis=1)
    total = float(area.sum())
    if not np.isfinite(total) or total <= 0:
        raise ValueError(f"expected faces with a finite area, got a total area of {total / 2:g} over {len(area)} faces")
    # Sorted and even: every area as large as the step gets a point, which leaves no hole in small parts.
    places = np.searchsorted(np.cumsum(area), (np.arange(count) + rng.random(count)) / count * total, side="right")
    face = np.minimum(places, len(area) - 1)
    u, v = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
    points = (1 - u) * a[face] + u * (1 - v) * b[face] + u * v * c[face]
    unit = normal[face] / np.maximum(area[face], 1e-300)[:, None]
    order = rng.permutation(count)
    return points[order].astype(np.float32), unit[order].astype(np.float32)


def read_off(path: Path) -> Mesh:
    """Mesh of an OFF file; polygons become fans of triangles, colours are left out.

    Format: Geomview's Object File Format, text. ModelNet's files with the counts behind the word OFF in one line are read too.

    Raises:
        BadSample: unreadable, truncated, no OFF file, or a face of vertices that are not there.
    """
    lines = _lines(path)
    if not lines or not lines[0].startswith("OFF"):
        raise BadSample(path, "not an OFF file: it does not start with OFF")
    lines = [lines[0][3:].strip(), *lines[1:]] if lines[0] != "OFF" else lines[1:]
    try:
        counts = [int(word) for word in lines[0].split()[:2]] if lines else []
        if len(counts) < 2 or min(counts) < 0:
            raise ValueError("no line with the numbers of vertices and faces")
        if len(lines) < 1 + sum(counts):
            raise ValueError(f"expected {counts[0]} vertices and {counts[1]} faces, got {len(lines) - 1} lines: truncated")
        vertices = _vertices([line.split()[:3] for line in lines[1 : 1 + counts[0]]])
        faces = _triangles(lines[1 + counts[0] : 1 + sum(counts)])
    except ValueError as error:
        raise BadSample(path, str(error)) from error
    return _checked(path, vertices, faces)


def read_obj(path: Path) -> Mesh:
    """Mesh of a Wavefront OBJ file (ShapeNet): its ``v`` and ``f`` lines; polygons become fans of triangles, everything else is left out.

    Raises:
        BadSample: unreadable, no vertex or face, words where numbers stand, or a face of vertices that are not there.
    """
    vertices: list[list[str]] = []
    faces: list[tuple[int, int, int]] = []
    try:
        for line in _lines(path):
            kind, *words = line.split()
            if kind == "v":
                vertices.append(words[:3])
            elif kind == "f":
                numbers = [int(word.split("/", 1)[0]) for word in words]  # vertex/texture/normal, from 1; negative ones count back from here
                if 0 in numbers:
                    raise ValueError("a face names vertex 0, they count from 1")
                faces += _fan([number - 1 if number > 0 else len(vertices) + number for number in numbers])
        if not vertices or not faces:
            raise ValueError(f"expected v and f lines, got {len(vertices)} vertices and {len(faces)} triangles")
        return _checked(path, _vertices(vertices), np.array(faces, dtype=np.int64))
    except ValueError as error:
        raise BadSample(path, str(error)) from error


def _lines(path: Path) -> list[str]:
    """Lines that say something, without comments. Raises BadSample."""
    try:
        return [text for line in path.read_text(encoding="ascii", errors="replace").splitlines() if (text := line.split("#", 1)[0].strip())]
    except OSError as error:
        raise BadSample(path, f"unreadable: {error.strerror or error}") from error


def _vertices(rows: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    short = next((row for row in rows if len(row) < 3), None)
    if short is not None:
        raise ValueError(f"a vertex of {len(short)} coordinates, expected x y z")
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _checked(path: Path, vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> Mesh:
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise BadSample(path, f"faces name vertices {int(faces.min())} to {int(faces.max())}, counted from 0; there are {len(vertices)}")
    return Mesh(vertices, faces)


def _triangles(lines: Sequence[str]) -> NDArray[np.int64]:
    """Triangles of the face lines of an OFF file: how many corners, then their numbers."""
    fans: list[tuple[int, int, int]] = []
    for row in (line.split() for line in lines):
        corners = [int(word) for word in row[1 : 1 + int(row[0])]]
        if len(corners) != int(row[0]):
            raise ValueError(f"a face of {row[0]} corners names {len(corners)}")
        fans += _fan(corners)
    return np.array(fans, dtype=np.int64).reshape(-1, 3)


def _fan(corners: Sequence[int]) -> list[tuple[int, int, int]]:
    return [(corners[0], second, third) for second, third in zip(corners[1:], corners[2:], strict=False)]
