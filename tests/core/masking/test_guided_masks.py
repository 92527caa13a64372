"""Masks from scores, masks carried through a hierarchy, and ratios that change."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.masking import (
    drawn_ratio,
    generators_of,
    hidden_count,
    inherited_mask,
    jagged_score_mask,
    members_mask,
    ratio_at,
    refined_mask,
    score_mask,
)


@given(st.integers(2, 30), st.floats(0.01, 0.99), st.floats(0, 3), st.integers(0, 2**60))
@settings(max_examples=60, deadline=None)
def test_scores_hide_exactly_the_count(tokens, ratio, temperature, seed):
    scores = torch.randn(3, tokens, generator=torch.Generator().manual_seed(seed % 1000))
    mask = score_mask(scores, ratio, generators_of([seed, seed + 1, seed + 2], "m"), temperature=temperature)
    assert (mask.sum(1) == hidden_count(tokens, ratio)).all()
    alone = score_mask(scores[1:2], ratio, generators_of([seed + 1], "m"), temperature=temperature)
    assert torch.equal(alone[0], mask[1])
    jagged = jagged_score_mask(
        scores.flatten(), torch.arange(4) * tokens, ratio, generators_of([seed, seed + 1, seed + 2], "m"), temperature=temperature
    )
    assert torch.equal(jagged.view(3, tokens), mask)


def test_temperature_zero_hides_the_highest_scores():
    scores = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    mask = score_mask(scores, 0.3, generators_of(range(4), "m"), temperature=0.0)
    assert [sorted(row.nonzero()[:, 0].tolist()) for row in mask] == [sorted(row.argsort(descending=True)[:3].tolist()) for row in scores]
    cold = score_mask(scores, 0.3, generators_of(range(4), "m"), temperature=1e-6)
    assert torch.equal(cold, mask)


def test_equal_scores_are_drawn_evenly_and_forbidden_tokens_last():
    scores = torch.tensor([0.0, 0.0, 0.0, 0.0, -math.inf]).expand(2000, 5)
    for temperature in (0.0, 1.0):
        share = score_mask(scores, 0.4, generators_of(range(2000), "m"), temperature=temperature).float().mean(0)
        assert share[4] == 0 and share[:4].tolist() == pytest.approx([0.5] * 4, abs=0.04)
    assert (score_mask(scores[:5], 0.9, generators_of(range(5), "m")).sum(1) == 4).all()
    nearly_all = score_mask(torch.tensor([[0.0, -math.inf, -math.inf]]), 0.7, generators_of([1], "m"))
    assert nearly_all[0, 0] and nearly_all.sum() == 2


def test_draws_follow_the_scores_one_after_the_other():
    """Probability of each pair hidden, against the sum over both orders of drawing without replacement."""
    weights = [0.5, 0.25, 0.15, 0.1]
    exact = {}
    for a, b in itertools.permutations(range(4), 2):
        pair = tuple(sorted((a, b)))
        exact[pair] = exact.get(pair, 0) + weights[a] * weights[b] / (1 - weights[a])
    scores = 2 * torch.tensor(weights).log().expand(4000, 4)
    masks = score_mask(scores, 0.5, generators_of(range(4000), "m"), temperature=2.0)
    seen = {pair: sum(bool(row[pair[0]] and row[pair[1]]) for row in masks.tolist()) / 4000 for pair in exact}
    assert seen == pytest.approx(exact, abs=0.03)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
@settings(max_examples=30, deadline=None)
def test_refined_masks_ask_the_cell_they_lie_in(grid, data):
    factor = data.draw(st.lists(st.integers(1, 3), min_size=len(grid), max_size=len(grid)))
    hidden = torch.rand(2, math.prod(grid), generator=torch.Generator().manual_seed(1)) < 0.5
    fine = refined_mask(hidden, grid, factor).view(2, *(g * f for g, f in zip(grid, factor)))
    coarse = hidden.view(2, *grid)
    for place in itertools.product(*(range(g * f) for g, f in zip(grid, factor))):
        parent = tuple(p // f for p, f in zip(place, factor))
        assert torch.equal(fine[(slice(None), *place)], coarse[(slice(None), *parent)])


def test_levels_compose():
    hidden = torch.rand(2, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(refined_mask(refined_mask(hidden, (2, 3), (2, 2)), (4, 6), (2, 1)), refined_mask(hidden, (2, 3), (4, 2)))


def test_voxels_inherit_from_the_voxel_that_holds_them():
    generator = torch.Generator().manual_seed(0)
    fine = torch.cat((torch.randint(2, (60, 1), generator=generator), torch.randint(-8, 8, (60, 3), generator=generator)), dim=1).unique(dim=0)
    coarse = (fine // torch.tensor([1, 2, 4, 4])).unique(dim=0)
    coarse = coarse[torch.randperm(len(coarse), generator=generator)]
    hidden = torch.rand(len(coarse), generator=generator) < 0.5
    lookup = {tuple(cell.tolist()): bool(h) for cell, h in zip(coarse, hidden)}
    expected = [lookup[(b, z // 2, y // 4, x // 4)] for b, z, y, x in fine.tolist()]
    assert inherited_mask(hidden, coarse, fine.int(), (2, 4, 4)).tolist() == expected
    with pytest.raises(ValueError, match="without"):
        inherited_mask(hidden[1:], coarse[1:], fine, (2, 4, 4))
    assert inherited_mask(hidden[:0], coarse[:0], fine[:0], (2, 4, 4)).tolist() == []


def test_points_of_any_visible_group_are_visible():
    members = torch.tensor([[0, 1, 2], [2, 3, 4], [4, 5, 0]])
    assert members_mask(torch.tensor([True, False, True]), members, 7).tolist() == [True, True, False, False, False, True, True]


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential"])
def test_schedules_run_from_start_to_end(shape):
    ratios = [ratio_at(step, 50, 0.2, 0.8, shape=shape) for step in range(50)]
    assert ratios[0] == pytest.approx(0.2) and ratios[-1] == pytest.approx(0.8)
    assert ratios == sorted(ratios) and len(set(ratios)) == 50
    down = [ratio_at(step, 50, 0.8, 0.2, shape=shape) for step in range(50)]
    assert down == sorted(down, reverse=True)
    stairs = [ratio_at(step, 50, 0.2, 0.8, shape=shape, stairs=5) for step in range(50)]
    assert sorted(set(stairs)) == sorted(set(stairs[::10])) and [stairs.count(r) for r in dict.fromkeys(stairs)] == [10] * 5
    assert stairs[0] == pytest.approx(0.2) and stairs[-1] == pytest.approx(0.8)
    assert ratio_at(99, 50, 0.2, 0.8, shape=shape) == pytest.approx(0.8) and ratio_at(0, 1, 0.2, 0.8, shape=shape) == pytest.approx(0.2)


def test_schedule_shapes():
    middle = {shape: ratio_at(10, 41, 0.25, 0.64, shape=shape) for shape in ("linear", "cosine", "exponential")}
    assert middle["linear"] == pytest.approx(0.25 + 0.39 / 4)
    assert middle["cosine"] == pytest.approx(0.25 + 0.39 * (1 - math.cos(math.pi / 4)) / 2)
    assert ratio_at(20, 41, 0.25, 0.64, shape="exponential") == pytest.approx(0.4)


def test_drawn_ratios():
    generator = torch.Generator().manual_seed(0)
    ratios = [drawn_ratio(0.5, 0.7, generator) for _ in range(500)]
    assert min(ratios) >= 0.5 and max(ratios) < 0.7 and sum(ratios) / 500 == pytest.approx(0.6, abs=0.01)
    assert drawn_ratio(0.5, 0.7, torch.Generator().manual_seed(0)) == ratios[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: score_mask(torch.zeros(3), 0.5, generators_of([1], "m")),
        lambda: score_mask(torch.tensor([[0.0, math.nan]]), 0.5, generators_of([1], "m")),
        lambda: score_mask(torch.tensor([[0.0, math.inf]]), 0.5, generators_of([1], "m")),
        lambda: score_mask(torch.zeros(2, 3), 0.5, generators_of([1], "m")),
        lambda: score_mask(torch.zeros(1, 3), 0.5, generators_of([1], "m"), temperature=-1.0),
        lambda: jagged_score_mask(torch.zeros(3), torch.tensor([0, 2]), 0.5, generators_of([1], "m")),
        lambda: refined_mask(torch.zeros(1, 4, dtype=torch.bool), (2, 2), (2,)),
        lambda: refined_mask(torch.zeros(1, 5, dtype=torch.bool), (2, 2), (2, 2)),
        lambda: inherited_mask(torch.zeros(1, dtype=torch.bool), torch.zeros(1, 3), torch.zeros(1, 3), (2,)),
        lambda: members_mask(torch.zeros(2, dtype=torch.bool), torch.zeros(3, 2, dtype=torch.int64), 4),
        lambda: ratio_at(0, 10, 0.0, 0.5),
        lambda: ratio_at(0, 10, 0.2, 0.5, stairs=1),
        lambda: ratio_at(0, 10, 0.2, 0.5, shape="square"),
        lambda: drawn_ratio(0.7, 0.5, torch.Generator()),
    ],
)
def test_wrong_input_is_refused(call):
    with pytest.raises(ValueError, match="expected|must"):
        call()
