"""Rotated non-maximum suppression against the greedy loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.ops import box_iou_bev, nms_rotated, use_reference


def boxes_around(centres, count, seed):
    rng = np.random.default_rng(seed)
    middle = rng.uniform(-40, 40, (centres, 2))[rng.integers(0, centres, count)]
    return torch.from_numpy(
        np.concatenate(
            [middle + rng.normal(0, 0.4, (count, 2)), rng.uniform(-1, 1, (count, 1)), rng.uniform(1, 5, (count, 3)), rng.uniform(-4, 4, (count, 1))],
            1,
        ).astype(np.float32)
    )


def naive(boxes, scores, threshold):
    """The rule, on the matrix of overlaps (which test_boxes.py holds to shapely)."""
    overlap = box_iou_bev(boxes, boxes)
    kept = []
    for row in sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i)):
        if all(overlap[other, row] <= threshold for other in kept):
            kept.append(row)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("centres", "count"), [(1, 1), (5, 80), (60, 90)])
def test_is_the_greedy_loop(centres, count, threshold, backend, generator):
    boxes, scores = boxes_around(centres, count, 0), torch.rand(count, generator=generator)
    assert nms_rotated(boxes, scores, threshold).tolist() == naive(boxes, scores, threshold)


def test_equal_scores_keep_the_first_row(backend):
    boxes = boxes_around(1, 1, 0).repeat(5, 1)
    boxes[3:, 0] += 50
    assert nms_rotated(boxes, torch.full((5,), 0.5), 0.3).tolist() == [0, 3]
    assert nms_rotated(boxes, torch.tensor([0.1, 0.2, 0.2, 0.2, 0.1]), 0.3).tolist() == [1, 3]


def test_max_keep_is_a_prefix(backend, generator):
    boxes, scores = boxes_around(30, 200, 1), torch.rand(200, generator=generator)
    whole = nms_rotated(boxes, scores, 0.2)
    assert torch.equal(nms_rotated(boxes, scores, 0.2, max_keep=7), whole[:7])
    assert nms_rotated(boxes, scores, 0.2, max_keep=0).tolist() == []
    assert torch.equal(nms_rotated(boxes, scores, 0.2, max_keep=10**6), whole)


def test_parity(same, compiled_cpu, generator):
    boxes, scores = boxes_around(60, 600, 2), torch.rand(600, generator=generator)
    same(lambda: (nms_rotated(boxes, scores, 0.1), nms_rotated(boxes, scores.half(), 0.7)))


def test_what_is_not_a_box_or_a_score(backend):
    boxes = boxes_around(1, 4, 0)
    boxes[1, 0], boxes[2, 3] = float("nan"), float("nan")
    scores = torch.tensor([0.1, 0.9, 0.5, float("nan")])
    assert nms_rotated(boxes, scores, 1.0).tolist() == [1, 2, 0, 3]  # they overlap nothing; NaN comes last
    assert nms_rotated(boxes[:0], scores[:0], 0.5).tolist() == []
    one_huge = torch.tensor([[0.0, 0, 0, 1e6, 1e6, 1, 0], [1e9, 0, 0, 1, 1, 1, 0], [-float("inf"), 0, 0, 1, 1, 1, 0]])
    assert nms_rotated(one_huge, torch.ones(3), 0.0).tolist() == [0, 1, 2]


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(1, 12), st.integers(0, 60), st.integers(0, 2**16), st.sampled_from([0.0, 0.05, 0.3, 0.8]), st.sampled_from([1.0, 1e-3, 1e4]))
def test_adversarial(centres, count, seed, threshold, scale):
    boxes = boxes_around(centres, count, seed)
    boxes[:, :6] *= scale
    boxes[::3] = boxes[: len(boxes[::3])].clone()  # repeated boxes
    scores = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, count).astype(np.float32))
    expected = naive(boxes, scores, threshold)
    assert nms_rotated(boxes, scores, threshold).tolist() == expected
    with use_reference():
        assert nms_rotated(boxes, scores, threshold).tolist() == expected


def test_refuses(backend):
    boxes, scores = boxes_around(1, 3, 0), torch.ones(3)
    with pytest.raises(ValueError, match="iou_threshold: expected a number in"):
        nms_rotated(boxes, scores, 1.5)
    with pytest.raises(ValueError, match="scores: expected shape"):
        nms_rotated(boxes, scores[:2], 0.5)
    with pytest.raises(ValueError, match="max_keep: expected"):
        nms_rotated(boxes, scores, 0.5, max_keep=-1)


def test_compiles_and_is_declared_well(compiled_cpu, generator):
    boxes, scores = boxes_around(10, 60, 0), torch.rand(60, generator=generator)
    order = scores.argsort(descending=True)
    torch.library.opcheck(torch.ops.suite3d.nms_rotated.default, (boxes, order, 0.3, 60), test_utils=("test_schema", "test_faketensor"))
    compiled = torch.compile(lambda b, s: b[nms_rotated(b, s, 0.3)] * 2, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(boxes, scores), boxes[nms_rotated(boxes, scores, 0.3)] * 2)
