"""Masks: exact counts, the distribution they promise, and nothing but (seed, sample) in what decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.masking import (
    block_mask,
    disjoint_masks,
    farthest_kept_mask,
    generators_of,
    hidden_count,
    random_mask,
    range_mask,
    split_hidden,
    sub_generator,
)


def offsets_of(lengths):
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)


def per_sample(mask, offsets):
    return [mask[..., a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist())]


def test_streams_depend_on_seed_and_purpose_only():
    draw = lambda seed, purpose: torch.rand(4, generator=sub_generator(seed, purpose)).tolist()  # noqa: E731
    assert draw(3, "mask") == draw(3, "mask")
    assert len({tuple(draw(seed, purpose)) for seed in range(20) for purpose in ("mask", "keep")}) == 40


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.2, 1.5, float("nan")])
def test_a_ratio_that_hides_all_or_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match="mask ratio"):
        random_mask(offsets_of([10]), ratio, generators_of([0], "m"))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.floats(0.01, 0.99), st.integers(0, 2**60))
@settings(max_examples=40, deadline=None)
def test_random_mask_hides_a_fixed_number_of_each_sample(lengths, ratio, seed):
    offsets = offsets_of(lengths)
    mask = random_mask(offsets, ratio, generators_of([seed + i for i in range(len(lengths))], "m"))
    for part, n in zip(per_sample(mask, offsets), lengths):
        assert int(part.sum()) == (0 if n < 2 else min(max(int(np.floor(ratio * n + 0.5)), 1), n - 1))


def test_a_sample_is_masked_alike_in_any_batch():
    alone = random_mask(offsets_of([30]), 0.4, generators_of([7], "m"))
    second = random_mask(offsets_of([11, 30]), 0.4, generators_of([1, 7], "m"))[11:]
    assert torch.equal(alone, second)
    assert not torch.equal(alone, random_mask(offsets_of([30]), 0.4, generators_of([8], "m")))


def test_random_mask_is_uniform():
    hits = sum(random_mask(offsets_of([20]), 0.3, generators_of([seed], "m")).float() for seed in range(2000))
    assert hits.sum() == 6 * 2000
    assert (hits / 2000 - 0.3).abs().max() < 5 * (0.3 * 0.7 / 2000) ** 0.5


def naive_furthest(points, count, start):
    chosen = [start]
    while len(chosen) < count:
        distance = ((points[:, None] - points[None, chosen]) ** 2).sum(-1).min(1)
        chosen.append(int(distance.argmax()))
    return chosen


def test_farthest_kept_mask_keeps_what_furthest_point_sampling_picks():
    lengths, seeds = [40, 25], [5, 6]
    positions = torch.rand(65, 3, generator=torch.Generator().manual_seed(1)) * 10
    offsets = offsets_of(lengths)
    mask = farthest_kept_mask(positions, offsets, 0.15, generators_of(seeds, "m"))
    for part, cloud, n, seed in zip(per_sample(mask, offsets), positions.split(lengths), lengths, seeds):
        start = int(torch.randint(n, (), generator=sub_generator(seed, "m")))
        kept = naive_furthest(cloud.numpy(), n - hidden_count(n, 0.15), start)
        assert sorted(kept) == (~part).nonzero()[:, 0].tolist()


def test_farthest_kept_mask_hides_the_dense_and_keeps_the_isolated():
    dense = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    isolated = torch.tensor([[50.0 + 10 * i, 0.0, 0.0] for i in range(20)])
    mask = farthest_kept_mask(torch.cat([dense, isolated]), offsets_of([220]), 0.5, generators_of([3], "m"))
    assert int(mask.sum()) == 110 and not mask[200:].any()


def test_farthest_kept_mask_takes_empty_samples():
    mask = farthest_kept_mask(torch.rand(4, 3), offsets_of([0, 4, 0, 0]), 0.5, generators_of([1, 2, 3, 4], "m"))
    assert int(mask.sum()) == 2


def test_split_hidden_deals_out_everything_once():
    offsets = offsets_of([60, 33, 1])
    hidden = random_mask(offsets, 0.5, generators_of([1, 2, 3], "m"))
    groups = split_hidden(hidden, offsets, (0.1, 0.05), generators_of([1, 2, 3], "s"))
    assert torch.equal(groups.sum(0) == 1, hidden) and groups.sum(0).max() == 1
    assert [part.sum(1).tolist() for part in per_sample(groups, offsets)] == [[20, 10], [11, 6], [0, 0]]
    with pytest.raises(ValueError, match="positive"):
        split_hidden(hidden, offsets, (1, 0), generators_of([1, 2, 3], "s"))


def test_disjoint_masks_share_nothing():
    offsets = offsets_of([100])
    masks = disjoint_masks(offsets, (0.3, 0.3, 0.2), generators_of([4], "m"))
    assert masks.sum(1).tolist() == [30, 30, 20] and masks.sum(0).max() == 1
    with pytest.raises(ValueError, match="everything"):
        disjoint_masks(offsets, (0.5, 0.5), generators_of([4], "m"))


def test_range_mask_counts_in_metres_and_by_band():
    rng = np.random.default_rng(0)
    lengths = [300, 200]
    distance = torch.from_numpy(rng.uniform(0, 80, 500)).float()
    distance[:3] = torch.tensor([29.999, 30.0, 50.0])
    offsets = offsets_of(lengths)
    mask = range_mask(distance, offsets, (30.0, 50.0), (0.9, 0.7, 0.5), generators_of([1, 2], "m"))
    for part, metres in zip(per_sample(mask, offsets), distance.split(lengths)):
        for (low, high), ratio in zip([(0, 30), (30, 50), (50, np.inf)], (0.9, 0.7, 0.5)):
            band = (metres >= low) & (metres < high)
            assert int(part[band].sum()) == hidden_count(int(band.sum()), ratio)


@pytest.mark.parametrize(("edges", "ratios"), [((50.0, 30.0), (0.5, 0.5, 0.5)), ((30.0,), (0.5,)), ((30.0,), (0.5, 1.0)), ((-1.0,), (0.5, 0.5))])
def test_range_mask_refuses_bands_that_make_no_sense(edges, ratios):
    with pytest.raises(ValueError):
        range_mask(torch.rand(5), offsets_of([5]), edges, ratios, generators_of([0], "m"))


def test_block_mask_hides_whole_blocks():
    coords = torch.randint(0, 12, (400, 3), generator=torch.Generator().manual_seed(2))
    offsets = offsets_of([250, 150])
    mask = block_mask(coords, offsets, (4, 3, 2), 0.4, generators_of([1, 2], "m"))
    for part, cells in zip(per_sample(mask, offsets), coords.split([250, 150])):
        blocks = {}
        for cell, hidden in zip((cells // torch.tensor([4, 3, 2])).tolist(), part.tolist()):
            blocks.setdefault(tuple(cell), set()).add(hidden)
        assert all(len(states) == 1 for states in blocks.values())
        assert sum(True in states for states in blocks.values()) == hidden_count(len(blocks), 0.4)
    with pytest.raises(ValueError, match="block sides"):
        block_mask(coords, offsets, (4, 3), 0.4, generators_of([1, 2], "m"))


def test_offsets_and_generators_must_fit():
    with pytest.raises(ValueError, match="one generator per sample"):
        random_mask(offsets_of([3, 4]), 0.5, generators_of([0], "m"))
    with pytest.raises(ValueError, match="offsets"):
        random_mask(torch.tensor([0, 5, 3]), 0.5, generators_of([0, 1], "m"))
