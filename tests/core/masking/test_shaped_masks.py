"""Masks of boxes, of coloured noise and of several views: exact counts, the structure they promise, the sample's generator alone decides."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.masking import (
    blockwise_mask,
    colour_noise_bank,
    colour_noise_mask,
    disjoint_block_masks,
    generators_of,
    grouped_mask,
    hidden_count,
    over_time,
    space_time_mask,
)

SIDES = st.lists(st.integers(1, 8), min_size=1, max_size=3).filter(lambda grid: math.prod(grid) > 1)
RATIOS = st.floats(0.01, 0.95)


def bank(colour="green", size=(20, 20), slices=6):
    return colour_noise_bank(colour, slices=slices, size=size, generator=torch.Generator().manual_seed(0))


BANK, VOLUMES = bank(), bank(size=(6, 12, 12))
SAMPLERS = {
    "blockwise": lambda gens: blockwise_mask((2, 6, 8), 0.5, gens, smallest=4),
    "grouped": lambda gens: grouped_mask((2, 6, 8), 0.5, gens),
    "colour": lambda gens: colour_noise_mask((2, 6, 8), 0.5, BANK, gens),
    "colour volume": lambda gens: colour_noise_mask((2, 6, 8), 0.5, VOLUMES, gens),
    "disjoint": lambda gens: disjoint_block_masks((2, 6, 8), 0.6, gens)[0].transpose(0, 1).flatten(1),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_masks_are_functions_of_the_samples_generator_alone(name):
    sampler = SAMPLERS[name]
    state = torch.get_rng_state()
    alone = sampler(generators_of([7], "m"))
    assert torch.equal(state, torch.get_rng_state()), "the global generator must not be touched"
    batch = sampler(generators_of([1, 7, 2], "m"))
    assert torch.equal(alone[0], batch[1]) and not torch.equal(batch[0], batch[1])
    assert len({tuple(row.tolist()) for row in sampler(generators_of(range(20), "m"))}) > 10


@given(SIDES, RATIOS, st.integers(0, 2**60), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_boxes_hide_exactly_the_count(grid, ratio, seed, smallest):
    count = hidden_count(math.prod(grid), ratio)
    for mask in (
        blockwise_mask(grid, ratio, generators_of([seed, seed + 1], "m"), smallest=smallest),
        grouped_mask(grid, ratio, generators_of([seed], "m")),
    ):
        assert mask.shape[1] == math.prod(grid) and (mask.sum(1) == count).all()


def edges(mask, height, width):
    """Pairs of neighbours of which one is hidden and one is not, per sample."""
    m = mask.view(-1, height, width)
    return ((m[:, 1:] != m[:, :-1]).sum((1, 2)) + (m[:, :, 1:] != m[:, :, :-1]).sum((1, 2))).float().mean().item()


def test_large_boxes_clump_more_than_groups_and_groups_more_than_single_tokens():
    gens = lambda: generators_of(range(100), "m")  # noqa: E731
    blocks = edges(blockwise_mask((1, 14, 14), 0.4, gens()), 14, 14)
    groups = edges(grouped_mask((1, 14, 14), 0.4, gens(), largest=0.2), 14, 14)
    single = edges(space_time_mask((1, 14, 14), 0.4, gens()), 14, 14)
    assert blocks < 0.8 * groups and groups < 0.8 * single


def test_the_first_box_has_the_promised_shape():
    """A count that a single box reaches shows it whole (where rounding left none for a second): its sides are within the aspect."""
    masks = blockwise_mask((1, 40, 40), 16 / 1600, generators_of(range(300), "m"), smallest=16).view(-1, 40, 40)
    ratios = []
    for mask in masks:
        rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
        if rows * columns <= 18:
            ratios.append(rows / columns)
    assert len(ratios) > 100
    assert min(ratios) < 0.5 < 2 < max(ratios) and min(ratios) >= 0.2 and max(ratios) <= 5
    assert sum(r < 1 for r in ratios) == pytest.approx(sum(r > 1 for r in ratios), abs=0.2 * len(ratios))


def test_boxes_in_time_and_over_time():
    mask = blockwise_mask((8, 6, 6), 0.3, generators_of(range(5), "m")).view(5, 8, 36)
    assert any(not torch.equal(sample[0], sample[-1]) for sample in mask)
    tubes = over_time(blockwise_mask((1, 6, 6), 0.3, generators_of(range(5), "m")), 8).view(5, 8, 36)
    assert (tubes == tubes[:, :1]).all()


def spectrum(colour):
    """Share of the power of centred masks at low, middle and high frequencies."""
    noise = bank(colour, size=(48, 48), slices=40)
    masks = colour_noise_mask((1, 32, 32), 0.75, noise, generators_of(range(200), "m")).view(-1, 32, 32).float()
    power = torch.fft.fft2(masks - masks.mean((1, 2), keepdim=True)).abs().square().mean(0)
    radius = (torch.fft.fftfreq(32)[:, None].square() + torch.fft.fftfreq(32).square()).sqrt()
    shares = [(power * part).sum() / part.sum() for part in (radius < 0.08, (radius > 0.12) & (radius < 0.22), radius > 0.4)]
    return [float(share / power.mean()) for share in shares]


def test_colours_have_their_frequencies():
    low, middle, high = range(3)
    red, blue, green, purple, white = (spectrum(colour) for colour in ("red", "blue", "green", "purple", "white"))
    assert red[low] > 3 * red[middle] > 9 * red[high]
    assert blue[high] > 1.8 * blue[middle] and blue[high] > 2 * blue[low], "cutting at a quantile whitens, but high frequencies stay ahead"
    assert green[middle] > 2 * green[low] and green[middle] > 2 * green[high]
    assert purple[middle] < 0.8 * purple[low] and purple[middle] < 0.8 * purple[high]
    assert max(white) < 1.2 and min(white) > 0.8


def test_colour_masks_have_no_favourite_place():
    noise = bank("red", size=(32, 32), slices=64)
    masks = colour_noise_mask((1, 8, 8), 0.75, noise, generators_of(range(600), "m"))
    assert (masks.sum(1) == 48).all()
    share = masks.float().mean(0)
    assert share.min() > 0.65 and share.max() < 0.85


def test_a_bank_of_pictures_gives_tubes_and_one_of_volumes_does_not():
    flat = colour_noise_mask((4, 8, 8), 0.9, BANK, generators_of(range(3), "m")).view(3, 4, 64)
    assert (flat == flat[:, :1]).all() and (flat[:, 0].sum(1) == hidden_count(64, 0.9)).all()
    moving = colour_noise_mask((4, 8, 8), 0.9, VOLUMES, generators_of(range(3), "m")).view(3, 4, 64)
    assert not (moving == moving[:, :1]).all() and (moving.flatten(1).sum(1) == hidden_count(256, 0.9)).all()


def test_a_filter_is_the_blur_it_says():
    """Red noise is white noise convolved with a periodic Gaussian, summed here place by place."""
    white, red = bank("white", size=(16, 12), slices=1)[0].double(), bank("red", size=(16, 12), slices=1)[0]
    offsets = range(-9, 10)
    kernel = {d: math.exp(-d * d / 8) for d in offsets}
    total = sum(kernel.values())
    for y, x in ((0, 0), (5, 11), (15, 3)):
        value = sum(kernel[a] * kernel[b] * white[(y + a) % 16, (x + b) % 12].item() for a in offsets for b in offsets) / total**2
        assert red[y, x].item() == pytest.approx(value, abs=2e-3)
    torch.testing.assert_close(bank("green") + bank("purple"), bank("white"), atol=1e-5, rtol=0)


@given(st.integers(1, 4), RATIOS, st.integers(0, 2**60))
@settings(max_examples=60, deadline=None)
def test_disjoint_views_share_the_work(views, ratio, seed):
    hidden, predicted = disjoint_block_masks((2, 6, 8), ratio, generators_of([seed, seed + 1], "m"), views=views)
    count = hidden_count(24, ratio)
    assert (hidden.sum(2) == 4 * count).all(), "every view hides the same number of tokens"
    blocks = hidden.view(views, 2, 2, 3, 2, 4, 2)
    assert (blocks == blocks[:, :, :, :, :1, :, :1]).all(), "whole blocks"
    assert (predicted <= hidden).all() and (predicted.sum(0) <= 1).all(), "nothing is predicted twice"
    if views * count <= 24:
        assert torch.equal(predicted, hidden)
    else:
        assert (predicted.sum(0) == 1).all(), "everything is predicted once"


@pytest.mark.parametrize(
    "call",
    [
        lambda: blockwise_mask((4, 0), 0.5, generators_of([1], "m")),
        lambda: blockwise_mask((4, 4), 1.0, generators_of([1], "m")),
        lambda: blockwise_mask((4, 4), 0.5, generators_of([1], "m"), smallest=0),
        lambda: blockwise_mask((4, 4), 0.5, generators_of([1], "m"), aspect=2.0),
        lambda: grouped_mask((4, 4), 0.5, generators_of([1], "m"), largest=0.0),
        lambda: colour_noise_mask((1, 30, 8), 0.5, BANK, generators_of([1], "m")),
        lambda: colour_noise_mask((7, 8, 8), 0.5, VOLUMES, generators_of([1], "m")),
        lambda: bank("pink"),
        lambda: colour_noise_bank("red", slices=1, size=(8, 8), generator=torch.Generator(), narrow=2.0, wide=1.0),
        lambda: colour_noise_bank("red", slices=1, size=(8,), generator=torch.Generator()),
        lambda: disjoint_block_masks((2, 5, 8), 0.5, generators_of([1], "m")),
        lambda: disjoint_block_masks((2, 6, 8), 0.5, generators_of([1], "m"), views=0),
    ],
)
def test_wrong_input_is_refused(call):
    with pytest.raises(ValueError, match="expected|must"):
        call()
