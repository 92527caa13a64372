"""Masks of regions of space: exact numbers, whole blocks, one ball, fair and the same every time, on cells and on metres."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from suite3d.masking import generators_of, hidden_count, nearest_mask, random_mask, space_block_mask

LENGTHS = (250, 150, 1, 0, 2)
OFFSETS = torch.tensor([0, *np.cumsum(LENGTHS)])
G = torch.Generator().manual_seed(2)
CELLS = torch.randint(0, 12, (int(OFFSETS[-1]), 3), generator=G)
METRES = 20 * torch.rand(int(OFFSETS[-1]), 3, generator=G) - 10
PLANE = METRES[:, :2]
SEEDS = [1, 2, 3, 4, 5]


def parts(values):
    return values.split(LENGTHS)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("coords, block", [(CELLS, (4, 3, 2)), (METRES, 3.0), (PLANE, (2.5, 5.0)), (METRES.double(), 100.0)])
def test_the_number_is_exact_and_the_draw_repeats(coords, block, ratio):
    for mask in (
        lambda seeds: space_block_mask(coords, OFFSETS, block, ratio, generators_of(seeds, "m")),
        lambda seeds: nearest_mask(coords, OFFSETS, ratio, generators_of(seeds, "m")),
    ):
        hidden = mask(SEEDS)
        assert hidden.dtype == torch.bool and [int(part.sum()) for part in parts(hidden)] == [hidden_count(n, ratio) for n in LENGTHS]
        assert torch.equal(hidden, mask(SEEDS)) and not torch.equal(hidden, mask([7, 8, 9, 10, 11]))
        swapped = mask([1, 9, 3, 4, 5])
        assert torch.equal(parts(hidden)[0], parts(swapped)[0]), "a sample's mask is its own"


@pytest.mark.parametrize("coords, block", [(CELLS, (4, 3, 2)), (METRES, (3.0, 3.0, 3.0))])
def test_all_blocks_but_one_are_whole(coords, block):
    hidden = space_block_mask(coords, OFFSETS, block, 0.5, generators_of(SEEDS, "m"), shifted=False)
    for part, own in zip(parts(hidden)[:2], parts(coords.double())):
        blocks = {}
        for cell, state, place in zip((own / torch.tensor(block)).floor().tolist(), part.tolist(), own):
            blocks.setdefault(tuple(cell), []).append((state, place))
        mixed = [cell for cell, states in blocks.items() if len({state for state, _ in states}) == 2]
        assert len(mixed) <= 1 and sum(all(state for state, _ in states) for states in blocks.values()) >= 3
        for cell in mixed:  # what is hidden of it lies nearer to its centre than what is not, in units of the block
            center = (torch.tensor(cell) + 0.5) * torch.tensor(block)
            gap = lambda place: float(((place - center) / torch.tensor(block)).square().sum())  # noqa: B023, E731
            assert max(gap(place) for state, place in blocks[cell] if state) <= min(gap(place) for state, place in blocks[cell] if not state) + 1e-9


def test_the_grid_of_blocks_lies_anew():
    line = torch.linspace(0, 9.99, 1000)[:, None]
    edges = set()
    for seed in range(40):
        hidden = space_block_mask(line, torch.tensor([0, 1000]), 2.0, 0.4, generators_of([seed], "m"))
        edges |= {round(float(line[row]) % 2, 1) for row in (hidden[1:] != hidden[:-1]).nonzero()[:, 0]}
    assert len(edges) > 15


def test_nearest_mask_hides_one_ball():
    hidden = nearest_mask(METRES, OFFSETS, 0.4, generators_of(SEEDS, "m"))
    for part, own in zip(parts(hidden)[:2], parts(METRES.double())):
        radii = torch.cdist(own, own)
        assert any(float(row[part].max()) < float(row[~part].min()) for row in radii)


def test_every_token_is_as_likely():
    places = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    draws = torch.stack([space_block_mask(places, torch.tensor([0, 64]), 0.4, 0.5, generators_of([seed], "m")) for seed in range(1500)]).float()
    share = draws.mean(dim=0)
    assert share.mean() == pytest.approx(0.5) and share.min() > 0.35 and share.max() < 0.65
    near = torch.cdist(places, places).fill_diagonal_(math.inf).argmin(dim=1)
    together = (draws == draws[:, near]).float().mean()
    scattered = torch.stack([random_mask(torch.tensor([0, 64]), 0.5, generators_of([seed], "m")) for seed in range(1500)]).float()
    assert together > 0.7 > 0.55 > (scattered == scattered[:, near]).float().mean(), "neighbours are hidden together"


def test_bad_input():
    generators = generators_of(SEEDS, "m")
    for bad in ((4, 3), (4, 3, 0), -1.0):
        with pytest.raises(ValueError, match="block sides"):
            space_block_mask(CELLS, OFFSETS, bad, 0.5, generators)
    with pytest.raises(ValueError, match="coordinates"):
        space_block_mask(METRES[:, 0], OFFSETS, 1.0, 0.5, generators)
    with pytest.raises(ValueError, match="coordinates"):
        nearest_mask(METRES[:, 0], OFFSETS, 0.5, generators)
    broken = METRES.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        space_block_mask(broken, OFFSETS, 1.0, 0.5, generators)
    with pytest.raises(ValueError, match="finite"):
        nearest_mask(broken, OFFSETS, 0.5, generators)
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="ratio"):
            space_block_mask(CELLS, OFFSETS, 2, ratio, generators)
        with pytest.raises(ValueError, match="ratio"):
            nearest_mask(CELLS, OFFSETS, ratio, generators)
    with pytest.raises(ValueError, match="one generator per sample"):
        nearest_mask(CELLS, OFFSETS, 0.5, generators[:2])
