"""Odd input through every op, compiled and reference: memory layouts, nothing, one row, duplicates, NaN, unequal clouds, too much.

One table of ops, one test an oddity. What an op does on ordinary input is in the test file of that op.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import suite3d.ops as ops

RANGE, SIZE, SHAPE = (-4.0, -4.0, -4.0, 4.0, 4.0, 4.0), (0.5, 0.5, 0.5), (16, 16, 16)
SIZES, QUERY_SIZES = (0, 1, 7, 40, 0), (3, 0, 1, 20, 2)  # points and queries of each cloud
HUGE = 2**31


class Op(NamedTuple):
    """``run`` takes the named tensors of ``inputs()``, in order, and returns tensors."""

    inputs: tuple[str, ...]
    run: Callable[..., tuple[Tensor, ...]]
    clouds: tuple[str, ...] = ()  # which inputs have one row a point (and belong to a cloud)


def convolution(coords: Tensor, feats: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    grid = {"spatial_shape": SHAPE, "batch_size": len(SIZES), "kernel": (3, 3, 3)}
    outputs = []
    for table in (ops.submanifold_map(coords, **grid), ops.strided_map(coords, stride=(2, 2, 2), padding=(1, 1, 1), **grid)):
        outputs += [table.coords, table.forward, table.backward, ops.sparse_conv(feats, weight, bias, table)]
    return tuple(outputs)


def sparse_tensor(coords: Tensor, feats: Tensor) -> tuple[Tensor, ...]:
    x = ops.SparseTensor.from_unsorted(coords.flip(0), feats.flip(0), spatial_shape=SHAPE, batch_size=len(SIZES))
    return x.coords, x.feats, x.dense(), x.gather(coords), x.offsets()


TABLE = {
    "furthest_point_sample": Op(
        ("points", "offsets", "counts"),
        lambda points, offsets, counts: (ops.furthest_point_sample(points, offsets, counts),),
        ("points",),
    ),
    "knn": Op(
        ("query", "points", "query_offsets", "offsets"),
        lambda query, points, query_offsets, offsets: ops.knn(query, points, 4, query_offsets=query_offsets, point_offsets=offsets),
        ("points", "query"),
    ),
    "ball_query": Op(
        ("query", "points", "query_offsets", "offsets"),
        lambda query, points, query_offsets, offsets: ops.ball_query(query, points, 1.5, 4, query_offsets=query_offsets, point_offsets=offsets),
        ("points", "query"),
    ),
    "three_interpolate": Op(
        ("query", "points", "feats", "query_offsets", "offsets"),
        lambda query, points, feats, query_offsets, offsets: (
            ops.three_interpolate(query, points, feats, query_offsets=query_offsets, point_offsets=offsets),
        ),
        ("points", "query"),
    ),
    "chamfer_distance": Op(
        ("query", "points", "query_offsets", "offsets"),
        lambda query, points, query_offsets, offsets: ops.chamfer_distance(query, points, a_offsets=query_offsets, b_offsets=offsets),
        ("points", "query"),
    ),
    "dynamic_voxelize": Op(("points", "offsets"), lambda points, offsets: ops.dynamic_voxelize(points, offsets, RANGE, SIZE), ("points",)),
    "hard_voxelize": Op(
        ("points", "feats", "offsets"),
        lambda points, feats, offsets: ops.hard_voxelize(points, feats, offsets, RANGE, SIZE, max_points=3, max_voxels=20),
        ("points",),
    ),
    "scatter_sum": Op(("feats", "index"), lambda feats, index: (ops.scatter_sum(feats, index, 9),)),
    "scatter_mean": Op(("feats", "index"), lambda feats, index: (ops.scatter_mean(feats, index, 9),)),
    "scatter_max": Op(("feats", "index"), lambda feats, index: (ops.scatter_max(feats, index, 9),)),
    "points_in_boxes": Op(("points", "boxes"), lambda points, boxes: (ops.points_in_boxes(points, boxes), ops.points_in_boxes_mask(points, boxes))),
    "box_iou": Op(("boxes", "others"), lambda boxes, others: tuple(f(boxes, others) for f in (ops.box_iou_bev, ops.box_iou_3d, ops.box_overlap_bev))),
    "nms_rotated": Op(("boxes", "scores"), lambda boxes, scores: (ops.nms_rotated(boxes, scores, 0.1),)),
    "sparse convolution": Op(("coords", "voxel_feats", "weight", "bias"), convolution),
    "sparse tensor": Op(("coords", "voxel_feats"), sparse_tensor),
}
SCATTERS = ("scatter_sum", "scatter_mean", "scatter_max")
LEAVES = {  # op -> the input that its outputs have gradients in
    **dict.fromkeys(SCATTERS, "feats"),
    "three_interpolate": "feats",
    "chamfer_distance": "points",
    "sparse convolution": "voxel_feats",
    "sparse tensor": "voxel_feats",
}


def over(names):
    return pytest.mark.parametrize("name", list(names))


every_op = over(TABLE)


def ends(sizes: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0)


def inputs(sizes: tuple[int, ...] = SIZES, query_sizes: tuple[int, ...] = QUERY_SIZES, seed: int = 0) -> dict[str, Tensor]:
    """Ordinary arguments of every op: ``sizes`` points and ``query_sizes`` queries a cloud; as many rows of the rest as points."""
    g = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    low, high = torch.tensor([-4.0, -4, -1, 0.5, 0.5, 0.5, -4]), torch.tensor([4.0, 4, 1, 4, 2, 2, 4])
    boxes, others = (low + torch.rand(count, 7, generator=g) * (high - low) for count in (rows, 11))
    keys = torch.cat(
        [cloud * 4096 + torch.randperm(4096, generator=g)[:size].sort().values for cloud, size in enumerate(sizes)] + [torch.zeros(0).long()]
    )
    return {
        "points": torch.randn(rows, 3, generator=g) * 1.5,
        "query": torch.randn(sum(query_sizes), 3, generator=g) * 1.5,
        "offsets": ends(sizes),
        "query_offsets": ends(query_sizes),
        "counts": torch.tensor([min(size, 5) for size in sizes]).long(),
        "feats": torch.randn(rows, 5, generator=g),
        "index": torch.randint(0, 9, (rows,), generator=g),
        "boxes": boxes,
        "others": others,
        "scores": torch.rand(rows, generator=g),
        "coords": torch.stack([keys // 4096, keys // 256 % 16, keys // 16 % 16, keys % 16], dim=1).int(),
        "voxel_feats": torch.randn(rows, 6, generator=g),
        "weight": torch.randn(7, 3, 3, 3, 6, generator=g),
        "bias": torch.randn(7, generator=g),
    }


def run(name: str, values: dict[str, Tensor]) -> tuple[Tensor, ...]:
    op = TABLE[name]
    return op.run(*(values[key] for key in op.inputs))


def assert_equal(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 0.0) -> None:
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


def poison(tensor: Tensor) -> Tensor:
    """Values of its type that would show in any result."""
    return torch.full_like(tensor, torch.nan if tensor.is_floating_point() else 77)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "every other": lambda t: torch.stack([t, poison(t)], dim=-1)[..., 0],
    "a slice of wider rows": lambda t: torch.cat([poison(t), t, poison(t)], dim=-1)[..., t.shape[-1] : 2 * t.shape[-1]],
    "columns first": lambda t: t.permute(*range(t.dim() - 1, -1, -1)).contiguous().permute(*range(t.dim() - 1, -1, -1)),
    "in the middle of memory": lambda t: torch.cat([poison(t), t, poison(t)])[t.shape[0] : 2 * t.shape[0]],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@every_op
def test_any_memory_layout(name, layout, backend):
    values = inputs()
    changed = {key: LAYOUTS[layout](value) for key, value in values.items()}
    assert all(torch.equal(changed[key], values[key]) for key in values)
    tolerance = 1e-5 if backend == "reference" and name == "sparse convolution" else 0.0  # torch's matrix product differs by layout
    assert_equal(run(name, changed), run(name, values), tolerance)


@over(LEAVES)
def test_gradients_in_any_memory_layout(name, backend):
    """The upstream gradient too: strided, or expanded from one number as that of ``sum`` is."""

    def gradient(upstream):
        values = inputs()
        leaf = values[LEAVES[name]].requires_grad_()
        outputs = [out for out in run(name, values) if out.requires_grad]
        return torch.autograd.grad(outputs, leaf, [upstream(out) for out in outputs])[0]

    expected = gradient(lambda out: torch.linspace(-1, 1, out.numel()).view_as(out))
    assert expected.isfinite().all() and expected.any()
    for change in LAYOUTS.values():
        strided = gradient(lambda out, change=change: change(torch.linspace(-1, 1, out.numel()).view_as(out)))
        torch.testing.assert_close(strided, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(lambda out: torch.ones(()).expand_as(out)), gradient(torch.ones_like), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0, 0)], ids=["no cloud", "an empty cloud", "empty clouds"])
@every_op
def test_nothing(name, sizes, backend):
    outputs = run(name, inputs(sizes, sizes))
    fixed = {"scatter_sum": (9, 5), "scatter_mean": (9, 5), "scatter_max": (9, 5)}
    if name in fixed:
        assert [out.shape for out in outputs] == [fixed[name]] and (outputs[0] == 0).all()
        return
    for out in outputs:
        assert out.numel() == 0 or not out.any()  # kernel maps have rows for offsets, the dense grid and offsets are there but zero


@over(name for name, op in TABLE.items() if "query" in op.clouds)
def test_queries_but_no_points_and_points_but_no_queries(name, backend):
    nothing = run(name, inputs((0, 0), (2, 3)))
    expected = {
        "knn": (torch.full((5, 4), -1), torch.full((5, 4), torch.inf)),
        "ball_query": (torch.full((5, 4), -1), torch.zeros(5).long()),
        "three_interpolate": (torch.zeros(5, 5),),
        "chamfer_distance": (torch.full((5,), torch.inf), torch.zeros(0), torch.full((5,), -1), torch.zeros(0).long()),
    }
    assert_equal(nothing, expected[name])
    assert all(len(out) == 0 for out in run(name, inputs((2, 3), (0, 0)))[:1])


@every_op
def test_one_row(name, backend):
    values = inputs((1,), (1,))
    values["query"] = values["points"].clone()
    values["others"] = values["boxes"].clone()
    values["points"] = values["boxes"][:, :3].clone() if name == "points_in_boxes" else values["points"].clamp(-3, 3)
    values["index"] = torch.tensor([4])
    outputs = run(name, values)
    feats = values["feats"]
    expected = {
        "furthest_point_sample": lambda: outputs[0].tolist() == [0],
        "knn": lambda: outputs[0].tolist() == [[0, -1, -1, -1]] and outputs[1][0, 0] < 10,
        "ball_query": lambda: outputs[1].tolist() in ([0], [1]),
        "three_interpolate": lambda: torch.equal(outputs[0], feats),
        "chamfer_distance": lambda: outputs[2].tolist() == [0] and torch.equal(outputs[0], outputs[1]),
        "dynamic_voxelize": lambda: outputs[1].tolist() == [0] and outputs[2].tolist() == [0],
        "hard_voxelize": lambda: torch.equal(outputs[1][0, 0], torch.cat([values["points"], feats], dim=1)[0]) and not outputs[1][0, 1:].any(),
        "points_in_boxes": lambda: outputs[0].tolist() == [0] and outputs[1].tolist() == [[True]],
        "box_iou": lambda: outputs[0].item() == pytest.approx(1) and outputs[1].item() == pytest.approx(1),
        "nms_rotated": lambda: outputs[0].tolist() == [0],
        "sparse convolution": lambda: (outputs[1] >= 0).sum() == 1 and outputs[1][13].item() == 0,
        "sparse tensor": lambda: int(outputs[2].any(dim=1).sum()) == 1,
    }
    if name.startswith("scatter"):
        assert torch.equal(outputs[0][4], feats[0]) and not outputs[0][[0, 1, 2, 3, 5, 6, 7, 8]].any()
    else:
        assert expected[name]()


@over(name for name in TABLE if not name.startswith("sparse"))  # which refuse repeated voxels: test_kernel_map.py, test_sparse_conv.py
def test_duplicates_as_the_reference_has_them(name, compiled_cpu):
    """Every row many times, some as views with stride 0; and the whole input one repeated row."""
    for repeated in (True, False):
        values = inputs((0, 30, 34), (5, 6, 7))
        for key in ("points", "query", "boxes", "feats", "scores"):
            value = values[key]
            values[key] = value[torch.arange(len(value)) % 4] if repeated else value[:1].expand_as(value)
        got = run(name, values)
        with ops.use_reference():
            assert_equal(got, run(name, values), 1e-6)


@over(name for name in TABLE if name != "furthest_point_sample")  # which refuses them: test_fps.py
def test_rows_with_nan_as_the_reference_has_them(name, compiled_cpu):
    """NaN and infinity in some rows of every floating argument."""
    for value in (torch.nan, torch.inf, -torch.inf):
        values = inputs((0, 30, 34), (5, 6, 7))
        for key in ("points", "query", "boxes", "others", "feats", "scores", "voxel_feats"):
            rows = values[key].reshape(len(values[key]), -1)
            rows[2::5, torch.arange(len(rows[2::5])) % rows.shape[1]] = value
        got = run(name, values)
        with ops.use_reference():
            assert_equal(got, run(name, values), 1e-4)


def test_nan_of_a_voxel_stays_with_its_neighbours(backend):
    values, dirty = inputs((50,)), inputs((50,))
    dirty["voxel_feats"][7] = torch.nan
    clean, got = run("sparse convolution", values), run("sparse convolution", dirty)
    for first in (0, 4):  # submanifold, strided
        hit = (clean[first + 1] == 7).any(dim=0)
        assert hit.any() and not hit.all()
        assert got[first + 3][hit].isnan().all() and torch.equal(got[first + 3][~hit], clean[first + 3][~hit])


@over(SCATTERS)
def test_nan_of_a_row_stays_with_its_group(name, backend):
    values, dirty = inputs((50,)), inputs((50,))
    dirty["feats"][7, 2] = torch.nan
    clean, got = run(name, values)[0], run(name, dirty)[0]
    hit = torch.zeros(9, 5, dtype=torch.bool)
    hit[values["index"][7], 2] = True
    assert got[hit].isnan().all() and torch.equal(got[~hit], clean[~hit])


def test_nan_features_of_other_clouds_do_not_reach_places_without_a_neighbour(backend):
    values = inputs((2, 2), (10, 10))
    values["feats"][0] = torch.nan
    (mixed,) = run("three_interpolate", values)
    assert mixed[:10].isnan().all() and mixed[10:].isfinite().all()  # two points a cloud: the third place is empty
    (mixed,) = run("three_interpolate", {**values, "points": values["points"][:2], "feats": values["feats"][:2], "offsets": ends((2, 0))})
    assert torch.equal(mixed[10:], torch.zeros(10, 5))


@over(name for name, op in TABLE.items() if op.clouds)
def test_unequal_clouds_are_each_cloud_alone(name, backend):
    """Empty, single and larger clouds in one batch, the empty ones first, in the middle and last."""
    values = inputs()
    whole = run(name, values)
    point_ends, query_ends = values["offsets"].tolist(), values["query_offsets"].tolist()
    parts = []
    for cloud in range(len(SIZES)):
        rows, queries = slice(*point_ends[cloud : cloud + 2]), slice(*query_ends[cloud : cloud + 2])
        alone = {
            **values,
            **{key: values[key][rows] for key in ("points", "feats")},
            "query": values["query"][queries],
            "offsets": ends((SIZES[cloud],)),
            "query_offsets": ends((QUERY_SIZES[cloud],)),
            "counts": values["counts"][cloud : cloud + 1],
        }
        parts.append(list(run(name, alone)))
        shift = {
            "furthest_point_sample": {0: rows.start},
            "knn": {0: rows.start},
            "ball_query": {0: rows.start},
            "chamfer_distance": {2: rows.start, 3: queries.start},
            "dynamic_voxelize": {1: sum(len(part[0]) for part in parts[:-1]), 2: rows.start},
        }.get(name, {})
        for at, start in shift.items():
            parts[-1][at] = torch.where(parts[-1][at] >= 0, parts[-1][at] + start, -1)
        if name.endswith("voxelize"):
            parts[-1][0] = parts[-1][0] + torch.tensor([cloud, 0, 0, 0], dtype=torch.int32)
    assert_equal(whole, tuple(torch.cat(column) for column in zip(*parts, strict=True)))


def too_many(columns: int) -> Tensor:
    """2^31 rows that take no memory."""
    return torch.zeros(1, columns).expand(HUGE, columns)


@pytest.mark.parametrize(
    "name", ["furthest_point_sample", "knn", "ball_query", "three_interpolate", "chamfer_distance", "dynamic_voxelize", "hard_voxelize"]
)
def test_more_points_than_int32_counts(name, backend):
    values = inputs((5,), (5,))
    values |= {"points": too_many(3), "feats": too_many(5), "offsets": ends((HUGE,))}
    with pytest.raises(ValueError, match=f"at most {HUGE - 1} (rows|points), got {HUGE}"):
        run(name, values)


def test_more_boxes_than_int32_counts(backend):
    few, many = inputs()["boxes"], too_many(7)
    for call in (lambda: ops.box_iou_bev(many, few), lambda: ops.box_iou_3d(few, many), lambda: ops.points_in_boxes(few[:, :3], many)):
        with pytest.raises(ValueError, match=f"at most {HUGE - 1} rows, got {HUGE}"):
            call()
    with pytest.raises(ValueError, match=f"at most {HUGE - 1} rows, got {HUGE}"):
        ops.points_in_boxes_mask(too_many(3), few)
    with pytest.raises(ValueError, match=f"at most {HUGE - 1} rows, got {HUGE}"):
        ops.nms_rotated(many, torch.zeros(1).expand(HUGE), 0.5)


GRIDS = [
    ((2**21, 2**21, 2**20), 1),  # 2^62 cells
    ((2**22, 2**22, 2**22), 1),  # 2^66: a product in 64 bits is 0
    ((2**16, 2**16, 2**16), 2**16),
    ((2**31, 2, 2), 1),  # a coordinate beyond int32
]


@pytest.mark.parametrize(("shape", "batch_size"), GRIDS)
def test_grids_beyond_int64(shape, batch_size, backend):
    """Keys of voxels are int64 and coordinates int32: larger grids are refused, whatever is in them."""
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32)
    grid = {"spatial_shape": shape, "batch_size": batch_size}
    message = re.escape(f"spatial_shape {shape}") + ".*expected (fewer than 2.61 cells|at most 2.31 - 1)"
    with pytest.raises(ValueError, match=message):
        ops.SparseTensor(coords=coords, feats=torch.zeros(2, 1), **grid)
    with pytest.raises(ValueError, match=message):
        ops.SparseTensor.from_unsorted(coords, torch.zeros(2, 1), **grid)
    with pytest.raises(ValueError, match=message):
        ops.submanifold_map(coords, kernel=(3, 3, 3), **grid)
    with pytest.raises(ValueError, match=message):
        ops.strided_map(coords, kernel=(3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1), **grid)


def test_the_largest_grid_works(same, compiled_cpu):
    """Just below the limit nothing overflows: the last cell of the grid still finds its neighbour."""
    shape = (2**20, 2**20, 2**20)
    top = [size - 1 for size in shape]
    coords = torch.tensor([[0, 0, 0, 0], [0, *top[:2], top[2] - 1], [0, *top]], dtype=torch.int32)

    def maps():
        grid = {"spatial_shape": shape, "batch_size": 1, "kernel": (3, 3, 3)}
        strided = ops.strided_map(coords, stride=(2, 2, 2), padding=(1, 1, 1), **grid)
        return ops.submanifold_map(coords, **grid).forward, strided.coords, strided.forward, strided.backward

    same(maps)
    assert maps()[0][14].tolist() == [-1, 2, -1]


def test_outputs_beyond_int32_are_refused(backend):
    """Padding that makes the output grid larger than coordinates reach."""
    coords = torch.zeros(1, 4, dtype=torch.int32)
    with pytest.raises(ValueError, match="output shape .*expected at most 2.31 - 1"):
        ops.strided_map(coords, spatial_shape=(1, 1, 2**30), batch_size=1, kernel=(1, 1, 1), stride=(1, 1, 1), padding=(0, 0, 2**29))


def test_an_index_beyond_int32_is_not_cut_to_32_bits(host_backend):
    for op in (ops.scatter_sum, ops.scatter_mean, ops.scatter_max):
        with pytest.raises(ValueError, match=re.escape(f"in [0, 9), got 0 to {2 * HUGE + 3}")):
            op(torch.ones(2, 1), torch.tensor([0, 2 * HUGE + 3]), 9)
