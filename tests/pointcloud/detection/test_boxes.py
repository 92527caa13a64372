"""Box codes and angles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.pointcloud.detection.boxes import (
    bev_corners,
    box_corners,
    decode_center,
    decode_residual,
    direction_bin,
    encode_center,
    encode_residual,
    nearest_axis_aligned_size,
    sin_difference,
    wrap_angle,
    yaw_in_bin,
)

place = st.floats(-80, 80)
length = st.floats(0.05, 25)
angle = st.floats(-20, 20)
box = st.tuples(place, place, st.floats(-5, 5), length, length, length, angle)


def angle_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.atan2((a - b).sin(), (a - b).cos()).abs()


@settings(max_examples=80, deadline=None)
@given(box, box)
def test_residual_code_round_trip(target, anchor):
    target, anchor = torch.tensor([target], dtype=torch.float64), torch.tensor([anchor], dtype=torch.float64)
    torch.testing.assert_close(decode_residual(encode_residual(target, anchor), anchor), target, rtol=0, atol=1e-5)
    single = decode_residual(encode_residual(target.float(), anchor.float()), anchor.float())
    torch.testing.assert_close(single.double(), target, rtol=1e-5, atol=5e-5)


def test_residual_code_known_numbers():
    anchor = torch.tensor([[10.0, 0.0, -1.0, 3.0, 4.0, 2.0, 0.5]])
    code = encode_residual(torch.tensor([[12.5, -5.0, 0.0, 6.0, 4.0, 1.0, 1.0]]), anchor)
    torch.testing.assert_close(code, torch.tensor([[0.5, -1.0, 0.5, math.log(2), 0.0, -math.log(2), 0.5]]))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 175.4), st.floats(0, 199.4), st.floats(-5, 5), length, length, length, angle, place, place), min_size=1, max_size=4
    )
)
def test_center_code_round_trip(rows):
    rows = torch.tensor(rows, dtype=torch.float64)
    position = rows[:, :2]
    code = encode_center(rows, position)
    assert (code[:, :2] >= 0).all() and (code[:, :2] < 1).all()
    found, rest = decode_center(code, position.floor())
    torch.testing.assert_close(found, position, rtol=0, atol=1e-5)
    torch.testing.assert_close(rest[:, [0, 1, 2, 3, 5, 6]], rows[:, [2, 3, 4, 5, 7, 8]], rtol=0, atol=1e-5)
    assert (angle_between(rest[:, 4], rows[:, 6]) < 1e-5).all()


@settings(max_examples=80, deadline=None)
@given(angle, st.integers(-3, 3), st.floats(-1, 3))
def test_wrapping_keeps_the_direction_and_the_interval(value, turns, start):
    value = torch.tensor(value, dtype=torch.float64)
    wrapped = wrap_angle(value + turns * 2 * math.pi, start=start)
    assert start - 1e-9 <= wrapped <= start + 2 * math.pi + 1e-9
    assert angle_between(wrapped, value) < 1e-9


@settings(max_examples=80, deadline=None)
@given(angle, st.integers(2, 8), st.floats(0, 1), st.integers(-4, 4))
def test_direction_bin_restores_a_yaw_known_up_to_the_bin_width(yaw, bins, offset, turns):
    yaw = torch.tensor(yaw, dtype=torch.float64)
    width = 2 * math.pi / bins
    inside = wrap_angle(yaw - offset, start=0.0, period=width)
    if min(inside, width - inside) < 1e-6:
        return  # on a border either bin is right
    direction = direction_bin(yaw, bins=bins, offset=offset)
    assert 0 <= direction < bins
    restored = yaw_in_bin(yaw + turns * width, direction, bins=bins, offset=offset)
    assert -math.pi <= restored <= math.pi and angle_between(restored, yaw) < 1e-6


def test_sine_difference_is_the_sine_of_the_difference_and_ignores_half_turns():
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(50, 7, generator=generator), torch.randn(50, 7, generator=generator)
    a, b = sin_difference(predicted, target)
    torch.testing.assert_close((a - b)[:, 6], torch.sin(predicted[:, 6] - target[:, 6]), rtol=0, atol=1e-6)
    torch.testing.assert_close((a - b)[:, :6], (predicted - target)[:, :6])
    turned = predicted.clone()
    turned[:, 6] = target[:, 6] + math.pi
    a, b = sin_difference(turned, target)
    assert (a - b)[:, 6].abs().max() < 1e-6


def test_corners_against_rotation_matrices():
    generator = np.random.default_rng(0)
    for _ in range(20):
        row = generator.normal(size=7)
        row[3:6] = np.abs(row[3:6]) + 0.1
        c, s = np.cos(row[6]), np.sin(row[6])
        rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        expected = {tuple(np.round(rotation @ (np.array([i, j, k]) * row[3:6] / 2) + row[:3], 6)) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)}
        corners = box_corners(torch.tensor(row)).numpy()
        assert {tuple(np.round(corner, 6)) for corner in corners} == expected
        footprint = bev_corners(torch.tensor(row)).numpy()
        np.testing.assert_allclose(corners[:4, :2], footprint)
        x, y = footprint.T
        area = 0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
        assert area == pytest.approx(row[3] * row[4])  # positive: counter-clockwise
    assert box_corners(torch.zeros(2, 3, 7)).shape == (2, 3, 8, 3)


@pytest.mark.parametrize(
    ("degrees", "swapped"),
    [(0, False), (44, False), (-44, False), (46, True), (90, True), (134, True), (136, False), (180, False), (-91, True), (405.5, True)],
)
def test_nearest_axis_aligned_size(degrees, swapped):
    size = nearest_axis_aligned_size(torch.tensor([[0, 0, 0, 4.0, 2.0, 1.0, math.radians(degrees)]]))
    assert size.tolist() == [[2.0, 4.0] if swapped else [4.0, 2.0]]
