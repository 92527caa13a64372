"""Masks of token grids: exact counts, the structure and distribution they promise, nothing but the sample's generator in what decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.masking import (
    decoded_cells,
    generators_of,
    hidden_count,
    hidden_indices,
    padded_indices,
    running_cell_masks,
    space_time_mask,
    temporal_mask,
    tube_mask,
    two_block_masks,
    visible_indices,
)

GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
SAMPLERS = {
    "tube": lambda grid, gens: tube_mask(grid, 0.7, gens),
    "temporal": lambda grid, gens: temporal_mask(grid, 0.5, gens),
    "space-time": lambda grid, gens: space_time_mask(grid, 0.8, gens),
    "cells": decoded_cells,
    "blocks": lambda grid, gens: two_block_masks(grid, gens, blocks=(3,), scales=(0.2,))[0],
}


def box(mask, grid):
    return mask.reshape(*mask.shape[:-1], *grid)


@given(GRIDS, st.floats(0.01, 0.99), st.integers(0, 2**60))
@settings(max_examples=60, deadline=None)
def test_tubes_hide_the_same_places_in_every_slot(grid, ratio, seed):
    mask = box(tube_mask(grid, ratio, generators_of([seed, seed + 1], "m")), grid)
    assert (mask == mask[:, :1]).all()
    assert (mask[:, 0].flatten(1).sum(1) == hidden_count(grid[1] * grid[2], ratio)).all()


def test_videomae_sees_160_of_1568_tokens():
    mask = tube_mask((8, 14, 14), 0.9, generators_of(range(3), "m"))
    assert mask.shape == (3, 1568) and (~mask).sum(1).tolist() == [160] * 3


@given(GRIDS, st.floats(0.01, 0.99), st.integers(0, 2**60))
@settings(max_examples=60, deadline=None)
def test_other_grid_masks_hide_what_they_say(grid, ratio, seed):
    generators = generators_of([seed, seed + 1], "m")
    slots = box(temporal_mask(grid, ratio, generators), grid).flatten(2)
    assert (slots.all(2) | ~slots.any(2)).all(), "a slot is hidden as a whole or not at all"
    assert (slots[:, :, 0].sum(1) == hidden_count(grid[0], ratio)).all()
    anywhere = space_time_mask(grid, ratio, generators)
    assert (anywhere.sum(1) == hidden_count(math.prod(grid), ratio)).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_masks_are_functions_of_the_samples_generator_alone(name):
    sampler, grid = SAMPLERS[name], (4, 6, 8)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    alone = sampler(grid, generators_of([7], "m"))
    assert torch.equal(state, torch.get_rng_state()), "the global generator must not be touched"
    torch.manual_seed(123)
    np.random.seed(5)  # noqa: NPY002 - shows that numpy's global state plays no part either
    batch = sampler(grid, generators_of([1, 7, 2], "m"))
    assert torch.equal(alone[0], batch[1])
    many = sampler(grid, generators_of(range(40), "m"))
    assert len({tuple(row.tolist()) for row in many}) >= 4


@pytest.mark.parametrize("sampler", [tube_mask, temporal_mask, space_time_mask])
def test_every_place_is_hidden_equally_often(sampler):
    grid = (5, 3, 4) if sampler is not temporal_mask else (10, 1, 2)
    draws, ratio = 3000, 0.3
    hits = sampler(grid, ratio, generators_of(range(draws), "m")).float().mean(0)
    expected = {tube_mask: hidden_count(12, ratio) / 12, temporal_mask: 0.3, space_time_mask: 0.3}[sampler]
    assert (hits - expected).abs().max() < 5 * (0.25 / draws) ** 0.5


def test_pairs_of_places_are_hidden_independently_of_their_distance():
    hidden = tube_mask((1, 4, 4), 0.5, generators_of(range(4000), "m")).double()
    together = hidden.T @ hidden / len(hidden)
    off = together[~torch.eye(16, dtype=torch.bool)]
    assert (off - 8 * 7 / (16 * 15)).abs().max() < 5 * (0.25 / 4000) ** 0.5


def slow_running_cells(slots, height, width):
    """The queue of the card: two dropped, two kept; it moves on by one before every slot is drawn."""
    maps = []
    for phase in range(4):
        pointer = phase
        tokens = []
        for _ in range(slots):
            pointer += 1
            cell = [[1, 1, 0, 0][(i + pointer) % 4] for i in range(4)]
            tokens += [bool(cell[2 * (y % 2) + x % 2]) for y in range(height) for x in range(width)]
        maps.append(tokens)
    return torch.tensor(maps)


@pytest.mark.parametrize("grid", [(8, 14, 14), (1, 2, 2), (5, 3, 7), (3, 1, 1)])
def test_running_cells_are_v2s_four_maps(grid):
    assert torch.equal(running_cell_masks(grid), slow_running_cells(*grid))


def test_running_cells_decode_half_of_every_slot_and_every_place_equally_often():
    maps = box(running_cell_masks((8, 14, 14)), (8, 14, 14))
    assert (maps.flatten(2).sum(2) == 98).all() and int((~maps[0]).sum()) == 784
    assert (maps.sum(1) == 4).all(), "in 8 slots every place is dropped in 4"
    assert (maps.sum(0) == 2).all(), "over the four maps as well"
    cells = [[[1, 1], [0, 0]], [[1, 0], [0, 1]], [[0, 0], [1, 1]], [[0, 1], [1, 0]]]
    for phase in range(4):
        for slot in range(8):
            assert maps[phase, slot, :2, :2].int().tolist() == cells[(phase + 1 + slot) % 4]


def test_each_clip_draws_one_of_the_four_maps_uniformly():
    maps = running_cell_masks((2, 4, 4))
    drawn = decoded_cells((2, 4, 4), generators_of(range(2000), "m"))
    which = (drawn[:, None] == maps).all(2)
    assert (which.sum(1) == 1).all()
    assert (which.float().mean(0) - 0.25).abs().max() < 5 * (0.1875 / 2000) ** 0.5


def runs(rows):
    """Whether the true entries of a bool vector are contiguous."""
    places = np.flatnonzero(rows)
    return len(places) > 0 and places[-1] - places[0] + 1 == len(places)


@given(st.integers(0, 2**60), st.integers(2, 16), st.integers(2, 16), st.floats(0.1, 0.6))
@settings(max_examples=60, deadline=None)
def test_one_block_is_a_box_of_the_asked_area_and_aspect_over_all_time(seed, height, width, scale):
    grid = (4, height, width)
    mask = box(two_block_masks(grid, generators_of([seed], "m"), blocks=(1,), scales=(scale,)), grid)[0, 0].numpy()
    assert (mask == mask[:1]).all()
    tall, wide = mask[0].any(1), mask[0].any(0)
    assert runs(tall) and runs(wide) and mask[0].sum() == tall.sum() * wide.sum()
    area = scale * height * width
    for side, limit, low, high in ((tall.sum(), height, 0.75, 1.5), (wide.sum(), width, 1 / 1.5, 1 / 0.75)):
        assert min(limit, math.sqrt(area * low)) - 0.51 <= side <= max(1, math.sqrt(area * high) + 0.51)


def test_vjepas_masks_hide_about_what_the_paper_says():
    masks = two_block_masks((8, 16, 16), generators_of(range(200), "m"))
    assert masks.shape == (2, 200, 2048)
    many, large = masks.float().mean((1, 2))
    assert 0.6 < many < 0.8 and 0.75 < large < 0.95
    assert not masks.all(2).any(), "every sample keeps some context"
    assert len(set(masks[0].sum(1).tolist())) > 5, "the counts differ, so they have to be packed"


def test_blocks_of_a_batch_can_share_their_size():
    masks = two_block_masks((1, 16, 16), generators_of(range(50), "m"), blocks=(1,), scales=(0.2,), sizes=torch.Generator().manual_seed(3))
    assert len(set(masks.sum(2).flatten().tolist())) == 1
    assert len({tuple(row.tolist()) for row in masks[0]}) > 20


def test_impossible_masks_are_refused():
    with pytest.raises(ValueError, match="no token visible"):
        two_block_masks((2, 1, 1), generators_of([0], "m"), blocks=(1,), scales=(0.9,))
    with pytest.raises(ValueError, match="one scale"):
        two_block_masks((2, 4, 4), generators_of([0], "m"), blocks=(1, 2), scales=(0.9,))
    with pytest.raises(ValueError, match="mask ratio"):
        tube_mask((2, 4, 4), 1.0, generators_of([0], "m"))
    with pytest.raises(ValueError, match="token grid"):
        tube_mask((2, 4), 0.5, generators_of([0], "m"))
    with pytest.raises(ValueError, match="positive sides"):
        running_cell_masks((2, 0, 4))


def test_indices_cover_each_token_once_in_order():
    mask = space_time_mask((2, 5, 3), 0.6, generators_of(range(9), "m"))
    visible, hidden = visible_indices(mask), hidden_indices(mask, 18)
    assert visible.shape == (9, 12) and visible.dtype == torch.int64
    for row, seen, unseen in zip(mask.tolist(), visible.tolist(), hidden.tolist()):
        assert seen == [i for i, value in enumerate(row) if not value]
        assert unseen == [i for i, value in enumerate(row) if value]


def test_unequal_rows_are_refused_or_padded():
    mask = torch.tensor([[True, False, True, False], [True, True, True, False]])
    with pytest.raises(ValueError, match="padded_indices"):
        visible_indices(mask)
    with pytest.raises(ValueError, match="bool mask"):
        visible_indices(mask.float())
    index, valid = padded_indices(~mask)
    assert index.tolist() == [[1, 3], [3, 0]] and valid.tolist() == [[True, True], [True, False]]
    index, valid = padded_indices(~mask, 3)
    assert index.tolist() == [[1, 3, 0], [3, 0, 0]] and valid.sum().item() == 3
    with pytest.raises(ValueError, match="at most 1"):
        padded_indices(~mask, 1)


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_padding_loses_nothing(rows):
    chosen = torch.tensor(rows)
    index, valid = padded_indices(chosen)
    back = torch.zeros_like(chosen)
    for row in range(len(rows)):
        back[row, index[row][valid[row]]] = True
    assert torch.equal(back, chosen) and int(valid.sum()) == int(chosen.sum())
