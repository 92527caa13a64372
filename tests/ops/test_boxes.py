"""Box overlap against shapely and closed forms, above all where boxes nearly coincide; points in boxes against a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.ops import box_iou_3d, box_iou_bev, box_overlap_bev, points_in_boxes, points_in_boxes_mask, use_reference


def random_boxes(count, spread, seed, offset=(0.0, 0.0)):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-spread, spread, (count, 3)) * [1, 1, 0.1] + [*offset, 0.0]
    return torch.from_numpy(np.concatenate([centre, rng.uniform(0.3, 6, (count, 3)), rng.uniform(-7, 7, (count, 1))], 1).astype(np.float32))


def polygon(box):
    shapely = pytest.importorskip("shapely")
    x, y, _, length, width, _, yaw = (float(v) for v in box)
    cosine, sine = math.cos(yaw), math.sin(yaw)
    corners = [(0.5 * length * u, 0.5 * width * v) for u, v in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
    return shapely.Polygon([(x + u * cosine - v * sine, y + u * sine + v * cosine) for u, v in corners])


def oracle(a, b):
    """Overlap, BEV IoU and 3D IoU of pairs (not all pairs) in float64 with shapely; coordinates are moved next to the origin first."""
    a, b = a.double(), b.double()
    results = []
    for first, second in zip(a, b, strict=True):
        shift = torch.tensor([*first[:2].tolist(), 0, 0, 0, 0, 0], dtype=torch.float64)
        p, q = polygon(first - shift), polygon(second - shift)
        overlap = p.intersection(q).area
        low, high = max(first[2] - first[5] / 2, second[2] - second[5] / 2), min(first[2] + first[5] / 2, second[2] + second[5] / 2)
        shared = overlap * max(0.0, float(high - low))
        volumes = p.area * float(first[5]) + q.area * float(second[5])
        results.append((overlap, overlap / (p.area + q.area - overlap), shared / (volumes - shared)))
    return torch.tensor(results, dtype=torch.float64)


def pairs(function, a, b):
    return function(a, b).diagonal().double()


def check_pairs(a, b, tolerance=1e-6):
    expected = oracle(a, b)
    assert (pairs(box_iou_bev, a, b) - expected[:, 1]).abs().max() < tolerance
    assert (pairs(box_iou_3d, a, b) - expected[:, 2]).abs().max() < tolerance
    relative = (pairs(box_overlap_bev, a, b) - expected[:, 0]).abs() / expected[:, 0].clamp(min=1)
    assert relative.max() < tolerance


FAMILIES = {
    "itself": lambda box, rng: box,
    "half turn": lambda box, rng: box + [0, 0, 0, 0, 0, 0, math.pi],
    "quarter turn, swapped": lambda box, rng: box[:, [0, 1, 2, 4, 3, 5, 6]] + [0, 0, 0, 0, 0, 0, math.pi / 2],
    "two turns": lambda box, rng: box + [0, 0, 0, 0, 0, 0, 4 * math.pi],
    "shifted by half its length": lambda box, rng: box + along(box, 0.5),
    "end to end": lambda box, rng: box + along(box, 1.0),
    "perturbed by 1e-5": lambda box, rng: box + rng.uniform(-1e-5, 1e-5, box.shape),
    "perturbed by 1e-7": lambda box, rng: box + rng.uniform(-1e-7, 1e-7, box.shape),
    "turned by 1e-6": lambda box, rng: box + [0, 0, 0, 0, 0, 0, 1e-6],
    "inside, one corner": lambda box, rng: box * [1, 1, 1, 0.5, 0.5, 1, 1] + along(box, 0.25) + across(box, 0.25),
    "concentric": lambda box, rng: np.concatenate([box[:, :3], rng.uniform(0.1, 8, (len(box), 3)), box[:, 6:]], 1),
    "thin": lambda box, rng: box * [1, 1, 1, 1, 1e-4, 1, 1],
    "very thin and turned": lambda box, rng: box * [1, 1, 1, 10, 1e-6, 1, 1] + [0, 0, 0, 0, 0, 0, 0.1],
    "random": lambda box, rng: box + rng.uniform(-2, 2, box.shape) * [1, 1, 1, 0, 0, 0, 1],
}


def along(box, share):
    return np.concatenate([share * box[:, 3:4] * np.cos(box[:, 6:]), share * box[:, 3:4] * np.sin(box[:, 6:]), np.zeros((len(box), 5))], 1)


def across(box, share):
    return np.concatenate([-share * box[:, 4:5] * np.sin(box[:, 6:]), share * box[:, 4:5] * np.cos(box[:, 6:]), np.zeros((len(box), 5))], 1)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (1000.0, -3000.0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_where_boxes_nearly_coincide(family, offset, backend):
    a = random_boxes(40, 5, 0, offset)
    b = torch.from_numpy(FAMILIES[family](a.double().numpy(), np.random.default_rng(1)).astype(np.float32))
    check_pairs(a, b)
    check_pairs(b, a)


def test_all_pairs_against_shapely(backend):
    a, b = random_boxes(20, 8, 0), random_boxes(25, 8, 1)
    expected = oracle(a.repeat_interleave(25, 0), b.repeat(20, 1)).view(20, 25, 3)
    assert (expected[..., 0] > 0).sum() > 60
    for function, column in ((box_overlap_bev, 0), (box_iou_bev, 1), (box_iou_3d, 2)):
        assert (function(a, b).double() - expected[..., column]).abs().max() < 2e-6


def test_closed_forms(backend):
    square = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    turned = square.clone()
    turned[0, 6] = math.pi / 4
    octagon = 8 * (math.sqrt(2) - 1)  # two unit-radius squares an eighth of a turn apart share a regular octagon
    torch.testing.assert_close(box_overlap_bev(square, turned)[0, 0].item(), octagon, rtol=1e-6, atol=0)
    half = square + torch.tensor([1.0, 0, 1, 0, 0, 0, 0])
    assert box_iou_bev(square, half).item() == pytest.approx(2 / 6, abs=1e-7)
    assert box_iou_3d(square, half).item() == pytest.approx(2 / 14, abs=1e-7)
    inner = torch.tensor([[0.1, -0.1, 0, 0.5, 0.5, 0.5, 1.234]])
    assert box_iou_bev(square, inner).item() == pytest.approx(0.25 / 4, abs=1e-7)
    assert box_iou_3d(square, inner).item() == pytest.approx(0.125 / 8, abs=1e-7)


def test_touching_boxes_share_exactly_nothing(backend):
    a = random_boxes(50, 5, 3)
    a[:, 6] = 0
    a[:, :6] = (a[:, :6] * 16).round() / 16  # exact in binary
    a[:, 3:5] = a[:, 3:5].clamp(min=1 / 16)
    beside = a + torch.tensor([1.0, 0, 0, 0, 0, 0, 0]) * a[:, 3:4]
    assert (pairs(box_overlap_bev, a, beside) == 0).all()
    assert (box_iou_bev(a, a).diag() == 1).all()


@pytest.mark.parametrize("function", [box_iou_bev, box_iou_3d, box_overlap_bev])
def test_symmetry_and_rigid_motion(function, backend):
    a, b = random_boxes(15, 6, 0), random_boxes(12, 6, 1)
    value = function(a, b)
    torch.testing.assert_close(function(b, a).T, value, rtol=1e-6, atol=1e-6)
    angle = 0.7
    moved = []
    for boxes in (a, b):
        new = boxes.double().clone()
        new[:, 0] = boxes[:, 0] * math.cos(angle) - boxes[:, 1] * math.sin(angle) + 3
        new[:, 1] = boxes[:, 0] * math.sin(angle) + boxes[:, 1] * math.cos(angle) - 4
        new[:, 6] += angle
        moved.append(new.float())
    torch.testing.assert_close(function(*moved), value, rtol=1e-4, atol=1e-5)


def test_parity(same, compiled_cpu):
    a, b = random_boxes(60, 10, 0), random_boxes(70, 10, 1)
    same(lambda: (box_overlap_bev(a, b), box_iou_bev(a, b), box_iou_3d(a, b), box_iou_bev(a, a)), atol=1e-6, rtol=1e-6)
    xyz = torch.rand(5000, 3, generator=torch.Generator().manual_seed(0)) * 20 - 10
    same(lambda: (points_in_boxes(xyz, a), points_in_boxes_mask(xyz, a)))


def test_boxes_that_are_none(backend):
    good = random_boxes(3, 1, 0)
    for column, value in ((3, 0.0), (4, -1.0), (0, float("nan")), (6, float("nan")), (1, float("inf")), (3, float("nan"))):
        bad = good.clone()
        bad[:, column] = value
        assert (box_iou_bev(good, bad) == 0).all() and (box_iou_3d(bad, good) == 0).all() and (box_iou_bev(bad, bad) == 0).all()
    assert box_iou_bev(good[:0], good).shape == (0, 3) and box_iou_3d(good, good[:0]).shape == (3, 0)
    velocities = torch.cat([good, torch.randn(3, 2)], 1)
    assert torch.equal(box_iou_bev(velocities, good), box_iou_bev(good, good))


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])] * 2, *[st.sampled_from([0.5, 1.0, 2.0])] * 2, st.integers(-8, 8)),
        min_size=2,
        max_size=6,
    )
)
def test_adversarial_lattice(rows):
    """Boxes on a lattice of positions, sizes and eighth turns: edges and corners coincide all the time."""
    boxes = torch.tensor([[x, y, 0, length, width, 1, turn * math.pi / 4] for x, y, length, width, turn in rows])
    expected = oracle(boxes.repeat_interleave(len(boxes), 0), boxes.repeat(len(boxes), 1))[:, 1].view(len(boxes), -1)
    assert (box_iou_bev(boxes, boxes).double() - expected).abs().max() < 1e-6
    with use_reference():
        assert (box_iou_bev(boxes, boxes).double() - expected).abs().max() < 1e-6


def naive_mask(xyz, boxes):
    x, y = xyz[:, 0].double(), xyz[:, 1].double()
    rows = []
    for box in boxes.double():
        dx, dy = x - box[0], y - box[1]
        u, v = dx * box[6].cos() + dy * box[6].sin(), dy * box[6].cos() - dx * box[6].sin()
        rows.append((u.abs() <= box[3] / 2) & (v.abs() <= box[4] / 2) & ((xyz[:, 2].double() - box[2]).abs() <= box[5] / 2))
    return torch.stack(rows) if rows else torch.zeros(0, len(xyz), dtype=torch.bool)


@pytest.mark.parametrize(("points", "boxes"), [(0, 3), (3, 0), (1, 1), (1000, 37)])
def test_points_in_boxes_is_a_loop(points, boxes, backend, generator):
    xyz, boxes = (torch.rand(points, 3, generator=generator) - 0.5) * 12, random_boxes(boxes, 5, 2)
    mask = naive_mask(xyz, boxes)
    assert torch.equal(points_in_boxes_mask(xyz, boxes), mask)
    first = torch.tensor([next((j for j in range(len(boxes)) if mask[j, i]), -1) for i in range(points)], dtype=torch.int64)
    assert torch.equal(points_in_boxes(xyz, boxes), first)


def test_points_on_faces_are_inside(backend):
    box = torch.tensor([[1.0, 2, 3, 4, 2, 2, 0]])
    faces = torch.tensor([[3.0, 2, 3], [1, 3, 3], [1, 2, 2], [-1, 1, 4], [3.001, 2, 3], [1, 2, 4.001]])
    assert points_in_boxes(faces, box).tolist() == [0, 0, 0, 0, -1, -1]
    bad = torch.tensor([[1.0, 2, 3, -4, 2, 2, 0], [float("nan"), 2, 3, 4, 2, 2, 0]])
    assert points_in_boxes(torch.tensor([[1.0, 2, 3], [float("nan"), 2, 3]]), torch.cat([bad, box])).tolist() == [2, -1]


def test_refuses(backend):
    good, xyz = random_boxes(3, 1, 0), torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"b: expected \(N, 7\) boxes"):
        box_iou_bev(good, good[:, :6])
    with pytest.raises(ValueError, match="a: expected float32, got float64"):
        box_iou_3d(good.double(), good)
    with pytest.raises(ValueError, match=r"xyz: expected \(N, 3\)"):
        points_in_boxes(good, good)
    with pytest.raises(ValueError, match="boxes: expected"):
        points_in_boxes_mask(xyz, xyz)


def test_compiles_and_is_declared_well(compiled_cpu):
    a, xyz = random_boxes(10, 3, 0), torch.zeros(20, 3)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.suite3d.box_iou.default, (a, a[:4], 1), test_utils=tests)
    torch.library.opcheck(torch.ops.suite3d.points_in_boxes.default, (xyz, a), test_utils=tests)
    torch.library.opcheck(torch.ops.suite3d.points_in_boxes_mask.default, (xyz, a), test_utils=tests)
    compiled = torch.compile(lambda x, p: (box_iou_bev(x, x).sum(), points_in_boxes(p, x) + 1), backend="aot_eager", fullgraph=True)
    got, expected = compiled(a, xyz), (box_iou_bev(a, a).sum(), points_in_boxes(xyz, a) + 1)
    assert all(torch.equal(g, e) for g, e in zip(got, expected, strict=True))
