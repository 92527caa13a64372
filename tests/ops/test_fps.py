"""Furthest point sampling against the definition written as a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.ops import furthest_point_sample, use_reference
from tests.ops.clouds import KINDS, cloud, clouds, squared


def naive(points, count, start=0):
    """Rows chosen of one cloud; numpy's argmax takes the first of equals."""
    nearest, chosen = np.full(len(points), np.inf, np.float32), [start]
    for _ in range(count - 1):
        nearest = np.minimum(nearest, squared(points[chosen[-1]][None], points)[0])
        chosen.append(int(nearest.argmax()))
    return chosen


def sample(points, count, **kwargs):
    return furthest_point_sample(points, torch.tensor([0, len(points)]), count, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "count"), [(1, 1), (37, 37), (700, 60)])
def test_is_the_definition(kind, size, count, backend):
    points = cloud(kind, size, 3)
    assert sample(points, count).tolist() == naive(points, count)


@pytest.mark.parametrize("kind", KINDS)
def test_buckets_are_the_definition(kind, compiled_cpu):
    points = cloud(kind, 4000, 5)  # large enough for the bucket kernel
    start = torch.tensor([1234])
    assert sample(points, 900, start=start).tolist() == naive(points, 900, 1234)


def test_known_order(backend):
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [10, 0, 0], [5, 0, 0], [5, 0, 0]])
    assert sample(line, 5).tolist() == [0, 2, 3, 1, 0]  # the twin of row 3 has distance 0, as everything then: lowest row
    assert sample(line, 3, start=torch.tensor([1])).tolist() == [1, 2, 3]


def test_ties_go_to_the_lowest_row(backend):
    corners = torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0], [-1, 0, 0], [0, -1, 0]])
    assert sample(corners, 5).tolist() == [0, 1, 2, 3, 4]  # all at distance 1 from the centre


def test_more_than_there_are_repeats_the_first_row(backend):
    points = cloud("normal", 5, 0)
    rows = furthest_point_sample(torch.cat([points, points]), torch.tensor([0, 5, 10]), 8)
    assert sorted(rows[:5].tolist()) == [0, 1, 2, 3, 4] and rows[5:8].tolist() == [0, 0, 0]
    assert torch.equal(rows[8:], rows[:8] + 5)


def test_ragged_batch_is_each_cloud_alone(same, generator):
    xyz = torch.randn(3000, 3, generator=generator)
    offsets, counts, start = torch.tensor([0, 10, 10, 700, 3000]), torch.tensor([10, 0, 33, 800]), torch.tensor([4, 10, 10, 2999])

    def compute():
        return (furthest_point_sample(xyz, offsets, counts, start=start),)

    same(compute)
    rows = compute()[0].split(counts.tolist())
    for b in (0, 2, 3):
        begin, end = int(offsets[b]), int(offsets[b + 1])
        alone = furthest_point_sample(xyz[begin:end], torch.tensor([0, end - begin]), int(counts[b]), start=start[b : b + 1] - begin)
        assert torch.equal(rows[b], alone + begin)


def test_spreads_points(generator):
    """No two samples are closer than the gap that remains (the property the method is used for)."""
    xyz = torch.randn(2000, 3, generator=generator)
    chosen = xyz[sample(xyz, 100)]
    between = torch.cdist(chosen.double(), chosen.double()).fill_diagonal_(torch.inf).min()
    assert torch.cdist(xyz.double(), chosen.double()).min(dim=1).values.max() <= between + 1e-6


@settings(max_examples=25, derandomize=True, deadline=None)
@given(clouds(300), st.integers(1, 60), st.integers(0, 2**16))
def test_adversarial(points, count, start):
    if len(points) == 0:
        assert sample(points, 0).tolist() == []
        return
    first = torch.tensor([start % len(points)])
    expected = naive(points, count, int(first))
    assert sample(points, count, start=first).tolist() == expected
    with use_reference():
        assert sample(points, count, start=first).tolist() == expected


def test_strided_input(backend, generator):
    wide = torch.randn(300, 5, generator=generator)
    assert torch.equal(sample(wide[:, 1:4], 20), sample(wide[:, 1:4].contiguous(), 20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xyz": torch.zeros(4, 2)}, r"xyz: expected \(N, 3\)"),
        ({"xyz": torch.zeros(4, 3).double()}, "xyz: expected float32, got float64"),
        ({"xyz": torch.tensor([[0.0, 0, float("nan")]] * 4)}, "xyz: expected finite"),
        ({"xyz": torch.tensor([[0.0, 0, 0]] * 3 + [[float("inf")] * 3])}, "xyz: expected finite"),
        ({"offsets": torch.tensor([0, 3])}, "offsets: expected"),
        ({"offsets": torch.tensor([0, 4, 4])}, "expected at least one point"),
        ({"counts": -1}, "counts: expected >= 0"),
        ({"counts": torch.tensor([1, 2])}, "counts and start: expected one entry"),
        ({"counts": torch.tensor([-2])}, "counts: expected values >= 0"),
        ({"start": torch.tensor([4])}, "start: expected"),
        ({"start": torch.tensor([0.5])}, "start: expected int64"),
    ],
)
def test_refuses(change, message, host_backend):
    arguments = {"xyz": torch.zeros(4, 3), "offsets": torch.tensor([0, 4]), "counts": 2} | change
    with pytest.raises(ValueError, match=message):
        furthest_point_sample(
            arguments["xyz"],
            arguments["offsets"],
            arguments["counts"],
            start=arguments.get("start"),
        )


def test_compiles_and_is_declared_well(compiled_cpu, generator):
    xyz, offsets = torch.randn(300, 3, generator=generator), torch.tensor([0, 100, 300])
    counts, start = torch.tensor([5, 7]), torch.tensor([0, 100])
    torch.library.opcheck(torch.ops.suite3d.furthest_point_sample.default, (xyz, offsets, counts, start, -1, len(xyz)))
    torch.library.opcheck(torch.ops.suite3d.furthest_point_sample.default, (xyz, offsets, counts, start, 12, len(xyz)))
    fixed = torch.compile(lambda x, o: xyz[furthest_point_sample(x, o, 6)].sum(0), backend="aot_eager", fullgraph=True)
    ragged = torch.compile(lambda x, o, c: furthest_point_sample(x, o, c) + 1, backend="aot_eager", fullgraph=True)
    assert torch.equal(fixed(xyz, offsets), xyz[furthest_point_sample(xyz, offsets, 6)].sum(0))
    assert torch.equal(ragged(xyz, offsets, counts), furthest_point_sample(xyz, offsets, counts) + 1)
