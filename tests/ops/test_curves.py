"""Space-filling curves: known codes, the geometry of the curves, and compiled against reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.ops import curve_codes, curve_order, use_reference

CURVES = ("z", "z-trans", "hilbert", "hilbert-trans")


def cube(depth):
    """Every cell of the cube of ``2^depth`` cells an axis."""
    axis = torch.arange(2**depth)
    return torch.cartesian_prod(axis, axis, axis)


def along(codes, cells):
    assert torch.equal(codes.sort().values, torch.arange(len(cells)))  # a bijection
    return cells[codes.argsort()]


def digits(value, depth):
    """Bits from the highest down."""
    return [value >> level & 1 for level in range(depth - 1, -1, -1)]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_known_positions(dtype, backend):
    cells = torch.tensor([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1], [3, 0, 5], [2**21 - 1] * 3, [2**20, 0, 0]], dtype=dtype)
    assert curve_codes(cells, "z", depth=21).tolist() == [1, 2, 4, 7, 0b001_100_101, 2**63 - 1, 2**62]
    assert curve_codes(cells[:5], "z-trans", depth=3).tolist() == [1, 4, 2, 7, 0b001_010_011]
    # the eight cells of a cube in the order of the reflected Gray code, x its highest bit
    walk = along(curve_codes(cube(1).to(dtype), "hilbert", depth=1), cube(1))
    assert walk.tolist() == [[(i ^ i >> 1) >> 2 & 1, (i ^ i >> 1) >> 1 & 1, (i ^ i >> 1) & 1] for i in range(8)]


# What `encode` of the released code of Point Transformer V3 (Pointcept/PointTransformerV3, commit 37a3ddc) returns for the cells below at
# depth 16, and for the same cells modulo 1024 at depth 10 in the batches 0, 1, 1, 5.
RELEASED = {
    "z": ([29, 613829607, 182498683631179, 80421421917622], [29, 1687571431, 1228256843, 5675492790]),
    "z-trans": ([43, 307046359, 113210123278925, 160842843834806], [43, 1380788183, 1227807309, 5982276022]),
    "hilbert": ([36, 1073477965, 234284789754958, 130684810615570], [36, 2147219789, 1227582830, 5867232018]),
    "hilbert-trans": ([20, 497734875, 76268035599726, 281474976710582], [20, 1571476699, 1228481898, 6442450870]),
}


@pytest.mark.parametrize("curve", CURVES)
def test_codes_are_those_of_point_transformer_v3(curve, backend):
    cells = torch.tensor([[1, 2, 3], [1023, 5, 77], [40000, 12345, 65535], [7, 65535, 0]])
    assert curve_codes(cells, curve).tolist() == RELEASED[curve][0]
    assert curve_codes(cells % 1024, curve, depth=10, batch=torch.tensor([0, 1, 1, 5])).tolist() == RELEASED[curve][1]


@pytest.mark.parametrize("curve", ["hilbert", "hilbert-trans"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_hilbert_neighbours_share_a_face(curve, depth, backend):
    walk = along(curve_codes(cube(depth), curve, depth=depth), cube(depth))
    assert walk[0].tolist() == [0, 0, 0]
    assert bool((walk.diff(dim=0).abs().sum(1) == 1).all())
    for block in (8, 64):  # and each run of 8^n cells fills a cube of 2^n
        parts = walk.view(-1, min(block, len(walk)), 3)
        assert bool((parts.amax(1) - parts.amin(1) == round(parts.shape[1] ** (1 / 3)) - 1).all())


@pytest.mark.parametrize("depth", [11, 21])
def test_hilbert_neighbours_share_a_face_deep_inside(depth, generator, backend):
    """Around random places: two face neighbours are one step apart along the curve, the rest of the six are not nearer than that."""
    cells = torch.randint(1, 2**depth - 1, (500, 3), generator=generator)
    steps = torch.cat([torch.eye(3), -torch.eye(3)]).long()
    here = curve_codes(cells, "hilbert", depth=depth)
    around = torch.stack([curve_codes(cells + step, "hilbert", depth=depth) for step in steps])
    assert bool(((around == here + 1).sum(0) == 1).all() and ((around == here - 1).sum(0) == 1).all())


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2**21 - 1)] * 3), max_size=9), st.integers(1, 21))
def test_z_positions_interleave_the_bits(cells, depth):
    cells = [tuple(v % 2**depth for v in cell) for cell in cells]
    expected = [int("".join(f"{a}{b}{c}" for a, b, c in zip(*(digits(v, depth) for v in cell), strict=True)), 2) for cell in cells]
    coords = torch.tensor(cells, dtype=torch.int64).view(-1, 3)
    assert curve_codes(coords, "z", depth=depth).tolist() == expected


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data(), st.sampled_from(CURVES), st.integers(1, 21))
def test_orders_are_those_of_the_reference(data, curve, depth):
    count = data.draw(st.integers(0, 300))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    limit = data.draw(st.sampled_from([1, 2, 2**depth]))  # all the same, many twice, few twice
    coords = torch.from_numpy(rng.integers(0, limit, (count, 3)))
    ends = torch.tensor([0, *sorted(data.draw(st.lists(st.integers(0, count), max_size=5))), count])
    order, inverse = curve_order(coords, curve, depth=depth, offsets=ends)
    with use_reference():
        expected = curve_order(coords, curve, depth=depth, offsets=ends)
        codes = curve_codes(coords, curve, depth=depth)
    assert torch.equal(order, expected[0]) and torch.equal(inverse, expected[1])
    rows = torch.arange(count)
    assert torch.equal(order[inverse], rows) and torch.equal(inverse[order], rows)
    for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert torch.equal(order[begin:end], codes[begin:end].argsort(stable=True) + begin)


@pytest.mark.parametrize("depth", [9, 16, 21])
@pytest.mark.parametrize("curve", CURVES)
def test_many_rows_on_one_thread_and_two(curve, depth, same, generator, compiled_cpu):
    coords = torch.randint(0, 2**depth, (40000, 3), generator=generator)
    coords[20000:20050] = coords[:50]
    ends = torch.tensor([0, 7, 7, 9000, 40000])
    same(lambda: (curve_codes(coords, curve, depth=depth), *curve_order(coords, curve, depth=depth, offsets=ends)))
    same(lambda: curve_order(coords.int(), curve, depth=depth))
    many = torch.arange(2001) * 20  # many small clouds
    same(lambda: curve_order(coords, curve, depth=depth, offsets=many))


def test_batch_in_front(backend, generator):
    coords, batch = torch.randint(0, 2**16, (100, 3), generator=generator), torch.arange(100) // 30
    codes = curve_codes(coords, "hilbert", depth=16, batch=batch.int())
    assert torch.equal(codes >> 48, batch) and torch.equal(codes & (2**48 - 1), curve_codes(coords, "hilbert", depth=16))
    order, _ = curve_order(coords, "hilbert", depth=16, offsets=torch.tensor([0, 30, 60, 90, 100]))
    assert torch.equal(codes.argsort(stable=True), order)
    top = curve_codes(torch.full((1, 3), 2**20 - 1), depth=20, batch=torch.tensor([7]))
    assert top.tolist() == [2**63 - 1]
    assert curve_codes(coords, depth=21, batch=torch.zeros(100, dtype=torch.int64)).equal(curve_codes(coords, depth=21))


def test_few_cells_and_other_layouts(backend, generator):
    none, one = torch.zeros(0, 3, dtype=torch.int64), torch.tensor([[3, 1, 2]])
    assert curve_codes(none).shape == (0,) and [len(x) for x in curve_order(none, offsets=torch.tensor([0, 0, 0]))] == [0, 0]
    assert curve_order(torch.zeros(0, 3, dtype=torch.int32), offsets=torch.tensor([0]))[0].shape == (0,)
    assert [x.tolist() for x in curve_order(one, "hilbert")] == [[0], [0]]
    coords = torch.randint(0, 99, (70, 4), generator=generator)
    assert torch.equal(curve_codes(coords[:, [3, 2, 1]]), curve_codes(coords.flip(1)[:, :3]))
    assert torch.equal(curve_codes(coords.T[1:].T), curve_codes(coords[:, 1:].contiguous()))


@pytest.mark.parametrize("call", [curve_codes, curve_order])
@pytest.mark.parametrize(
    ("coords", "options", "message"),
    [
        (torch.zeros(4, 2, dtype=torch.int64), {}, r"coords: expected shape \(\*, 3\), got \(4, 2\)"),
        (torch.zeros(4, 3), {}, "coords: expected int32 or int64, got float32"),
        (torch.full((4, 3), 2**16), {}, r"coords: expected values in \[0, 2\^16\), got 65536 to 65536; subtract the minimum"),
        (torch.tensor([[0, -1, 5]], dtype=torch.int32), {}, r"coords: expected values in \[0, 2\^16\), got -1 to 5"),
        (torch.tensor([[0, 2**40, 5]]), {"depth": 21}, r"got 0 to 1099511627776"),
        (torch.zeros(4, 3, dtype=torch.int64), {"depth": 22}, "depth: expected 1 to 21 bits"),
        (torch.zeros(4, 3, dtype=torch.int64), {"depth": 0}, "depth: expected 1 to 21 bits"),
        (torch.zeros(4, 3, dtype=torch.int64), {"curve": "peano"}, "curve: expected one of z, z-trans, hilbert, hilbert-trans, got 'peano'"),
    ],
)
def test_says_what_is_wrong(call, coords, options, message, host_backend):
    with pytest.raises(ValueError, match=message):
        call(coords, **options)


def test_refuses_batches_and_offsets(backend):
    coords = torch.zeros(4, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"batch: expected values in \[0, 1\), what an int64 holds in front of 3 x 21 bits, got 0 to 1"):
        curve_codes(coords, depth=21, batch=torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match=r"batch: expected values in \[0, 8\).*got 0 to 8"):
        curve_codes(coords, depth=20, batch=torch.tensor([0, 0, 1, 8]))
    with pytest.raises(ValueError, match=r"batch: expected shape \(4\), got \(3,\)"):
        curve_codes(coords, batch=torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="0 to the 4 rows, got 0 to 3"):
        curve_order(coords, offsets=torch.tensor([0, 3]))


def test_declared_well(compiled_cpu, generator):
    coords, ends = torch.randint(0, 99, (70, 3), generator=generator), torch.tensor([0, 30, 70])
    torch.library.opcheck(torch.ops.suite3d.curve_codes.default, (coords, 8, True, False))
    torch.library.opcheck(torch.ops.suite3d.curve_order.default, (coords, ends, 8, True, True))
