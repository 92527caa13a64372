"""Rotated overlap within 1e-6 of exact geometry where boxes nearly coincide: 2,000 pairs a family, kernel and reference.

The families are those on which the kernels that detectors commonly run are off by up to 1 (boxes turned by half a turn, shifted by half
their size, moved by a hair). The oracle here is Sutherland and Hodgman's polygon clipping, written for this test, in extended precision and
in world axes (the code under test uses neither clipping nor those axes); the clipper is itself held to exact rational arithmetic.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from suite3d.ops import box_iou_3d, box_iou_bev, box_overlap_bev
from suite3d.ops.reference import boxes as reference

PAIRS, TOLERANCE, BLOCK = 2000, 1e-6, 20
EXACT = np.longdouble
TURN = np.array([0, 0, 0, 0, 0, 0, 1.0])


def street_boxes(rng):
    """``(PAIRS, 7)`` float64: from bollards to lorries, within lidar range, any heading."""
    centre = rng.uniform([-70, -70, -2], [70, 70, 2], (PAIRS, 3))
    return np.concatenate([centre, rng.uniform([0.3, 0.3, 0.5], [12, 3, 4], (PAIRS, 3)), rng.uniform(-math.pi, math.pi, (PAIRS, 1))], 1)


def shifted(box, along, across=0.0):
    """Moved by shares of its own length and width."""
    cosine, sine, moved = np.cos(box[:, 6]), np.sin(box[:, 6]), box.copy()
    u, v = along * box[:, 3], across * box[:, 4]
    moved[:, 0] += u * cosine - v * sine
    moved[:, 1] += u * sine + v * cosine
    return moved


def log_uniform(rng, low, high):
    return 10 ** rng.uniform(low, high, (PAIRS, 1)) * rng.choice([-1.0, 1.0], (PAIRS, 1))


def swapped(box):
    """The same rectangle described with length for width."""
    return box[:, [0, 1, 2, 4, 3, 5, 6]] + math.pi / 2 * TURN


# name -> (second box of each pair, the bird's-eye IoU that the family is made to have or None)
FAMILIES = {
    "identical": (lambda box, rng: box, 1.0),
    "half a turn": (lambda box, rng: box + math.pi * TURN, 1.0),
    "half a turn back": (lambda box, rng: box - math.pi * TURN, 1.0),
    "whole turns": (lambda box, rng: box + 2 * math.pi * rng.integers(-3, 4, (PAIRS, 1)) * TURN, 1.0),
    "quarter turn, sizes swapped": (lambda box, rng: swapped(box), 1.0),
    "shifted by half its length": (lambda box, rng: shifted(box, 0.5), 1 / 3),
    "shifted by half its width": (lambda box, rng: shifted(box, 0.0, 0.5), 1 / 3),
    "shifted by half of both": (lambda box, rng: shifted(box, 0.5, 0.5), 1 / 7),
    "half a turn and half its length": (lambda box, rng: shifted(box, -0.5) + math.pi * TURN, 1 / 3),
    "touching end to end": (lambda box, rng: shifted(box, 1.0), 0.0),
    "touching side by side": (lambda box, rng: shifted(box, 0.0, -1.0), 0.0),
    "touching at a corner": (lambda box, rng: shifted(box, 1.0, 1.0), 0.0),
    "inside, along two edges": (lambda box, rng: shifted(box, 0.25, 0.25) * [1, 1, 1, 0.5, 0.5, 1, 1], 0.25),
    "moved by 1e-4": (lambda box, rng: box + rng.uniform(-1e-4, 1e-4, box.shape), None),
    "moved by 1e-5": (lambda box, rng: box + rng.uniform(-1e-5, 1e-5, box.shape), None),
    "moved by 1e-6": (lambda box, rng: box + rng.uniform(-1e-6, 1e-6, box.shape), None),
    "turned by a hair": (lambda box, rng: box + log_uniform(rng, -8, -2) * TURN, None),
    "half a turn and a hair": (lambda box, rng: box + (math.pi + log_uniform(rng, -8, -2)) * TURN, None),
    "half shift and a hair": (lambda box, rng: shifted(box, 0.5) + rng.uniform(-1e-5, 1e-5, box.shape), None),
    "touching and a hair": (lambda box, rng: shifted(box, 1.0) + rng.uniform(-1e-5, 1e-5, box.shape), None),
    "thin, shifted by half": (lambda box, rng: shifted(box, 0.5), None),
    "thin, crossing": (lambda box, rng: box + log_uniform(rng, -4, 0) * TURN, None),
}


def corners(box, origin):
    """``(P, 4, 2)`` counter-clockwise, about ``(P, 2)`` origins; ``box`` in extended precision."""
    cosine, sine = np.cos(box[:, 6]), np.sin(box[:, 6])
    u = box[:, 3, None] / 2 * np.array([1, -1, -1, 1])  # [P, 4]
    v = box[:, 4, None] / 2 * np.array([1, 1, -1, -1])
    turned = np.stack([u * cosine[:, None] - v * sine[:, None], u * sine[:, None] + v * cosine[:, None]], axis=2)
    return turned + (box[:, None, :2] - origin[:, None])


def cut(polygon, start, end):
    """Keep what lies left of the lines ``start -> end``: ``(P, N, 2)`` -> ``(P, 2 N, 2)``, gaps closed by repeating a vertex."""
    edge = (end - start)[:, None]
    side = edge[..., 0] * (polygon[..., 1] - start[:, None, 1]) - edge[..., 1] * (polygon[..., 0] - start[:, None, 0])  # [P, N]
    following, next_side = np.roll(polygon, -1, axis=1), np.roll(side, -1, axis=1)
    crosses = (side >= 0) != (next_side >= 0)
    share = side / np.where(crosses, side - next_side, 1)
    crossing = polygon + share[..., None] * (following - polygon)
    candidates = np.stack([polygon, crossing], axis=2).reshape(len(polygon), -1, 2)  # [P, 2 N, 2]
    valid = np.stack([side >= 0, crosses], axis=2).reshape(len(polygon), -1)
    number = np.arange(valid.shape[1])
    last = np.maximum.accumulate(np.where(valid, number, -1), axis=1)
    last = np.where(last < 0, last[:, -1:], last)  # before the first vertex comes the last
    kept = np.take_along_axis(candidates, np.maximum(last, 0)[..., None], axis=1)
    return np.where(valid.any(axis=1)[:, None, None], kept, EXACT(0))


def area(polygon):
    x, y = polygon[..., 0], polygon[..., 1]
    return (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1) / 2


def exact(first, second):
    """Overlap, bird's-eye IoU and 3D IoU ``(3, P)`` of the float32 boxes of each pair, in extended precision."""
    a, b = first.double().numpy().astype(EXACT), second.double().numpy().astype(EXACT)
    subject, window = corners(b, a[:, :2]), corners(a, a[:, :2])
    for side in range(4):
        subject = cut(subject, window[:, side], window[:, (side + 1) % 4])
    overlap = np.maximum(area(subject), 0)
    size_a, size_b = a[:, 3] * a[:, 4], b[:, 3] * b[:, 4]
    top, bottom = np.minimum(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2), np.maximum(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)
    shared = overlap * np.maximum(top - bottom, 0)
    return np.stack([overlap, overlap / (size_a + size_b - overlap), shared / (size_a * a[:, 5] + size_b * b[:, 5] - shared)]).astype(np.float64)


def family(name, offset):
    """Both boxes of each pair in float32: the second is made of the rounded first, then rounded."""
    rng = np.random.default_rng(0)
    first = street_boxes(rng) + [offset, offset, 0, 0, 0, 0, 0]
    first[:, 4] *= 1e-3 if name.startswith("thin") else 1
    first = first.astype(np.float32)
    make, expected = FAMILIES[name]
    return torch.from_numpy(first), torch.from_numpy(make(first.astype(np.float64), rng).astype(np.float32)), expected


def of_pairs(first, second, backend):
    """Overlap, bird's-eye IoU and 3D IoU ``(3, P)`` of each pair. The ops take all pairs: blocks of them, of which the diagonals."""
    if backend == "reference":  # its own parts, which take pairs
        a, b = first.double(), second.double()
        overlap = reference.overlap_of_pairs(a, b)
        parts = [overlap, *(reference.over_union(overlap, a, b, solid=solid) for solid in (False, True))]
        return torch.stack(parts).float().double().numpy()
    blocks = [(a, b) for a, b in zip(first.split(BLOCK), second.split(BLOCK), strict=True)]
    rows = [torch.cat([function(a, b).diagonal() for a, b in blocks]) for function in (box_overlap_bev, box_iou_bev, box_iou_3d)]
    return torch.stack(rows).double().numpy()


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_within_a_millionth_of_exact_geometry(name, offset, backend):
    first, second, expected = family(name, offset)
    overlap, bev, solid = exact(first, second)
    if expected is not None and offset == 0:
        assert abs(bev - expected).max() < 1e-4, "the family is what its name says, but for the rounding of the boxes"
    for a, b in ((first, second), (second, first)):
        got = of_pairs(a, b, backend)
        assert abs(got[1] - bev).max() < TOLERANCE
        assert abs(got[2] - solid).max() < TOLERANCE
        assert (abs(got[0] - overlap) / np.maximum(overlap, 1)).max() < TOLERANCE


def rational_overlap(subject, window):
    """The same clipping on one pair, in exact rational arithmetic."""
    polygon = [tuple(map(Fraction, point)) for point in subject.tolist()]
    lines = [tuple(map(Fraction, point)) for point in window.tolist()]
    for (ax, ay), (bx, by) in zip(lines, lines[1:] + lines[:1], strict=True):
        sides = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in polygon]
        kept = []
        for i, ((px, py), side) in enumerate(zip(polygon, sides, strict=True)):
            (qx, qy), other = polygon[(i + 1) % len(polygon)], sides[(i + 1) % len(polygon)]
            kept += [(px, py)] if side >= 0 else []
            if (side >= 0) != (other >= 0):
                share = side / (side - other)
                kept.append((px + share * (qx - px), py + share * (qy - py)))
        polygon = kept
    ring = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return float(sum((px * qy - qx * py for (px, py), (qx, qy) in ring), Fraction(0)) / 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_oracle_is_exact(name):
    """Its clipping gives what rational arithmetic gives on the same corners."""
    first, second, _ = family(name, 0.0)
    a, b = (boxes[:20].double().numpy() for boxes in (first, second))
    window, subject = corners(a, a[:, :2]), corners(b, a[:, :2])
    polygon = subject.astype(EXACT)
    for side in range(4):
        polygon = cut(polygon, window[:, side].astype(EXACT), window[:, (side + 1) % 4].astype(EXACT))
    for got, row in zip(area(polygon), range(20), strict=True):
        assert abs(float(got) - rational_overlap(subject[row], window[row])) < 1e-15 * float(a[row, 3] * a[row, 4] + 1)
