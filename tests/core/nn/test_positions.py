"""Position tables and rotations: definitions, invariances, resampling."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.nn.positions import Positions, Rope, resample_table, rotate, sincos, sincos_flat
from tests.core.nn.naive_vit import flat_table


@pytest.mark.parametrize(("n", "dim"), [(1, 2), (7, 6), (12, 9)])
def test_flat_table_is_the_definition(n: int, dim: int) -> None:
    torch.testing.assert_close(sincos_flat(n, dim), flat_table(n, dim).float())


def test_flat_table_is_exact_at_the_last_token_of_a_clip() -> None:
    assert sincos_flat(1568, 768)[1567, 0].item() == pytest.approx(math.sin(1567), abs=1e-7)


def test_factorised_table_holds_one_axis_a_third() -> None:
    grid, dim = (3, 4, 5), 18
    table = sincos(grid, dim).reshape(*grid, 3, 6)
    for axis in range(3):
        part = table[..., axis, :]
        others = [other for other in range(3) if other != axis]
        for other in others:  # constant along the other axes
            assert torch.equal(part, part.narrow(other, 0, 1).expand_as(part))
        line = part.movedim(axis, 0)[:, 0, 0]
        for i in range(grid[axis]):
            for k in range(3):
                angle = i / 10000 ** (k / 3)
                assert line[i, k].item() == pytest.approx(math.sin(angle), abs=1e-6)
                assert line[i, k + 3].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_factorised_table_is_cut_to_an_odd_width() -> None:
    assert torch.equal(sincos((2, 3, 4), 16), sincos((2, 3, 4), 18)[:, :16])


def test_resampling_keeps_what_does_not_change() -> None:
    grid = (2, 3, 4)
    table = torch.randn(24, 5)
    assert resample_table(table, grid, grid) is table
    constant = torch.full((24, 5), 3.0)
    torch.testing.assert_close(resample_table(constant, grid, (4, 6, 5)), torch.full((120, 5), 3.0))
    longer = resample_table(table, grid, (4, 3, 4)).reshape(4, 12, 5)  # time only: linear between the two slots
    first, last = table.reshape(2, 12, 5)
    torch.testing.assert_close(longer, torch.stack([first, 0.75 * first + 0.25 * last, 0.25 * first + 0.75 * last, last]))


def test_resampled_fixed_table() -> None:
    positions = Positions("sincos_flat", (4, 6, 6), 8, source_grid=(2, 3, 3))
    positions.reset_parameters()
    torch.testing.assert_close(positions.table, resample_table(sincos_flat(18, 8), (2, 3, 3), (4, 6, 6)))
    assert "table" not in positions.state_dict()
    assert "table" in Positions("learned", (4, 6, 6), 8).state_dict()
    with pytest.raises(ValueError, match="learned"):
        Positions("learned", (4, 6, 6), 8, source_grid=(2, 3, 3))


@pytest.mark.parametrize("head_dim", [6, 8, 64, 80, 88])
def test_rotation_depends_on_the_difference_of_places_only(head_dim: int) -> None:
    rope = Rope((4, 5, 6), head_dim)
    rope.reset_parameters()
    q, k = torch.randn(2, head_dim, dtype=torch.float64)

    def score(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        places = torch.tensor([[(t * 5 + h) * 6 + w for t, h, w in (a, b)]])
        cos, sin = (part.double() for part in rope(places))
        turned = [rotate(x.expand(1, 1, 2, -1), (cos, sin)) for x in (q, k)]
        return (turned[0][0, 0, 0] @ turned[1][0, 0, 1]).item()

    assert score((0, 1, 2), (1, 3, 2)) == pytest.approx(score((2, 2, 5), (3, 4, 5)), rel=1e-5)
    assert score((0, 0, 0), (0, 0, 0)) == pytest.approx((q @ k).item(), rel=1e-6)
    for axis in range(3):
        place = tuple(int(a == axis) for a in range(3))
        assert abs(score((0, 0, 0), place) - (q @ k).item()) > 1e-4  # every axis is told


def test_rotation_leaves_the_rest_and_the_prefix_alone() -> None:
    rope = Rope((2, 2, 2), 8)  # one pair an axis, two channels left over
    rope.reset_parameters()
    x = torch.randn(1, 3, 9, 8)
    out = rotate(x, rope(prefix=1))
    assert torch.equal(out[:, :, 0], x[:, :, 0]) and torch.equal(out[..., 6:], x[..., 6:])
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))


def test_the_tiled_slip_is_another_function_and_not_a_rotation() -> None:
    rope, slip = Rope((2, 3, 3), 24), Rope((2, 3, 3), 24, tiled=True)
    rope.reset_parameters(), slip.reset_parameters()
    x = torch.randn(1, 1, 18, 24)
    assert not torch.allclose(rotate(x, rope()), rotate(x, slip()))
    assert (rotate(x, slip()).norm(dim=-1) - x.norm(dim=-1)).abs().max() > 1e-3
    # pair k = (2k, 2k + 1) of an axis with 4 pairs gets angles 2k and 2k + 1 modulo 4
    angle = torch.tensor([1 / 10000 ** (k / 4) for k in (0, 1, 2, 3, 0, 1, 2, 3)])
    torch.testing.assert_close(slip.cos[9, :8], angle.cos())  # token (1, 0, 0)


@pytest.mark.parametrize("head_dim", [7, 4])
def test_rotation_of_unfit_heads_is_refused(head_dim: int) -> None:
    with pytest.raises(ValueError, match="even head_dim"):
        Rope((1, 2, 2), head_dim)
