"""Sheets of object clouds: a cell for every cloud, in its place and colour, up is up."""

from __future__ import annotations

import numpy as np
import pytest

from suite3d.report.clouds import HEAD, CloudCell, draw_clouds

BALL = np.random.default_rng(0).standard_normal((400, 3))
BALL /= np.linalg.norm(BALL, axis=1, keepdims=True)
RED = (255, 0, 0)


def cells(sheet, rows, columns, side):
    return sheet[HEAD:].reshape(rows, side + HEAD, columns, side, 3).swapaxes(1, 2)


def red(picture):
    return np.argwhere((picture[..., 0] > 200) & (picture[..., 1] < 60))


def test_every_cloud_in_its_cell():
    rows = [[CloudCell(points=BALL, color=RED, label="a"), CloudCell(points=None)], [CloudCell(points=BALL), CloudCell(points=0.3 * BALL, color=RED)]]
    sheet = draw_clouds(rows, side=100, title="sheet")
    assert sheet.dtype == np.uint8 and sheet.shape == (HEAD + 2 * (100 + HEAD), 200, 3)
    parts = cells(sheet, 2, 2, 100)
    counts = [[len(red(parts[row, column])) for column in range(2)] for row in range(2)]
    assert counts[0][0] > counts[1][1] > 50 and counts[0][1] == counts[1][0] == 0
    assert np.ptp(red(parts[0, 0])[:, 0]) > 2.5 * np.ptp(red(parts[1, 1])[:, 0]), "one scale for all"
    assert len(np.unique(parts[1, 0].reshape(-1, 3), axis=0)) > 20, "by height"


def test_up_is_up_and_the_sphere_fits():
    top = draw_clouds([[CloudCell(points=BALL[BALL[:, 2] > 0.8], color=RED)]], side=120)
    bottom = draw_clouds([[CloudCell(points=BALL[BALL[:, 2] < -0.8], color=RED)]], side=120)
    assert red(top)[:, 0].mean() + 40 < red(bottom)[:, 0].mean()
    whole = red(draw_clouds([[CloudCell(points=BALL, color=RED)]], side=120)[2 * HEAD :])
    assert whole.min() > 0 and whole.max() < 119


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="at least one cloud"):
        draw_clouds([[]])
