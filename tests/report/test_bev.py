"""Known things at known pixels, and a look at nothing must not fail."""

from __future__ import annotations

import numpy as np
import pytest

from suite3d.report.bev import BACKGROUND, DETECTED, HIDDEN, LABELLED, PREDICTED, TITLE_HEIGHT, BevScene, bev_view, draw_bev

AREA = (0.0, -20.0, 40.0, 20.0)  # 10 pixels a metre at size 400


def close(pixel, color, tolerance=70):
    return np.abs(pixel.astype(int) - np.array(color)).sum() < tolerance


def plain():
    return draw_bev(BevScene(points=np.zeros((0, 3))), 400, AREA)


def test_a_point_is_at_its_pixel_and_nowhere_else():
    # 30 m ahead, 5 m to the left: 10 m below the top edge, 15 m right of the left one.
    scene = BevScene(points=np.array([[30.0, 5.0, 0.0]]))
    image = draw_bev(scene, 400, AREA)
    changed = np.argwhere((image[TITLE_HEIGHT : TITLE_HEIGHT + 400] != plain()[TITLE_HEIGHT : TITLE_HEIGHT + 400]).any(axis=2)) + [TITLE_HEIGHT, 0]
    assert len(changed) and np.abs(changed.mean(axis=0) + 0.5 - [TITLE_HEIGHT + 100, 150]).max() < 0.6
    assert np.ptp(changed, axis=0).max() <= 3
    np.testing.assert_allclose(bev_view(scene, 400, AREA).to_pixels(scene.points[0]), [150, TITLE_HEIGHT + 100])


def test_forward_is_up_and_left_is_left():
    view = bev_view(BevScene(points=np.zeros((0, 3))), 400, AREA)
    middle, ahead, left = view.to_pixels(np.array([[20, 0], [25, 0], [20, 5]]))
    assert ahead[1] < middle[1] and ahead[0] == middle[0] and left[0] < middle[0] and left[1] == middle[1]


@pytest.mark.parametrize("field, color", [("boxes", DETECTED), ("labels_boxes", LABELLED)])
def test_a_box_is_drawn_on_its_rim_with_its_heading(field, color):
    box = np.array([[20.0, 0.0, 0.0, 8.0, 4.0, 1.5, np.pi / 2]])  # heads left: 8 m from right to left, 4 m along the view
    image = draw_bev(BevScene(points=np.zeros((0, 3)), **{field: box}), 400, AREA)
    at = lambda x, y: image[round(TITLE_HEIGHT + (40 - x) * 10 - 0.5), round((20 - y) * 10 - 0.5)]  # noqa: E731
    for x, y in ((22, 0), (18, 0), (20, -4), (20, 4), (22, 3)):
        assert close(at(x, y), color, 150), (x, y, at(x, y))
    assert close(at(20, 4.8), color, 150)  # the tick, beyond the front
    assert close(at(21, 1), BACKGROUND, 20) and close(at(20.5, -4.8), BACKGROUND, 20) and close(at(23, 0), BACKGROUND, 20)


def test_hidden_voxels_are_outlined_and_predictions_coloured():
    scene = BevScene(points=np.zeros((0, 3)), hidden=np.array([[20.0, 0, 0]]), voxel_size=2.0, predicted=np.array([[20.0, 0, 0]]))
    image = draw_bev(scene, 400, AREA)
    row, column = TITLE_HEIGHT + 200, 200
    rim = image[row - 10 : row + 10, column - 11 : column - 8].astype(int) - BACKGROUND
    assert (rim.max(axis=1)[:, 0] > 0.3 * (HIDDEN[0] - BACKGROUND[0])).all()
    assert close(image[row - 1, column - 1], PREDICTED, 250) and close(image[row - 5, column - 5], BACKGROUND, 20)


def test_higher_points_are_brighter():
    points = np.stack([np.full(50, 20.0), np.linspace(-15, 15, 50), np.linspace(-2, 2, 50)], axis=1)
    image = draw_bev(BevScene(points=points), 400, AREA)
    row = image[TITLE_HEIGHT + 199 : TITLE_HEIGHT + 201].sum(axis=(0, 2))
    assert row[50:100].max() > row[300:350].max() + 200


def test_the_title_and_scores_are_written():
    scene = BevScene(points=np.zeros((0, 3)), boxes=np.array([[20.0, 0, 0, 4, 2, 1.5, 0]]), scores=np.array([0.87]), title="step 40")
    image, unscored = draw_bev(scene, 400, AREA), draw_bev(BevScene(points=np.zeros((0, 3)), boxes=scene.boxes), 400, AREA)
    assert (image[:TITLE_HEIGHT] != unscored[:TITLE_HEIGHT]).any()
    assert (
        image[TITLE_HEIGHT + 150 : TITLE_HEIGHT + 200, 210:260].max(axis=2) > unscored[TITLE_HEIGHT + 150 : TITLE_HEIGHT + 200, 210:260].max(axis=2)
    ).any()


def test_every_label_is_in_the_default_view():
    rng = np.random.default_rng(0)
    scene = BevScene(points=rng.normal(size=(500, 3)), labels_boxes=np.array([[60.0, -30, 0, 4, 2, 1.5, 0], [-20.0, 5, 0, 4, 2, 1.5, 0]]))
    view = bev_view(scene, 300)
    assert view.x0 < -20 and view.x1 > 60 and view.y0 < -30 and max(view.map_size) == 300
    assert draw_bev(scene, 300).shape[1] == view.map_size[1]


@pytest.mark.parametrize(
    "scene",
    [
        BevScene(points=np.zeros((0, 3))),
        BevScene(points=np.zeros((1, 3))),
        BevScene(points=np.full((5, 3), np.nan), hidden=np.zeros((0, 3)), predicted=np.zeros((0, 3)), boxes=np.zeros((0, 7)), scores=np.zeros(0)),
        BevScene(points=np.zeros((3, 4)), boxes=np.full((1, 9), np.nan), title="x" * 500),
        BevScene(points=np.full((3, 3), 1e4), boxes=np.array([[0, 0, 0, 1e3, 1e3, 1, 0.3]])),
    ],
)
def test_odd_scenes_give_a_picture(scene):
    for area in (None, AREA):
        image = draw_bev(scene, 200, area)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.shape[1] <= 200


def test_ranges_are_checked():
    with pytest.raises(ValueError, match="x0 < x1"):
        draw_bev(BevScene(points=np.zeros((0, 3))), 100, (0, 0, 0, 10))
    with pytest.raises(ValueError, match="3 numbers"):
        draw_bev(BevScene(points=np.zeros((0, 3))), 100, (0, 1, 2))
    with pytest.raises(ValueError, match=r"\(M, 7\)"):
        draw_bev(BevScene(points=np.zeros((0, 3)), boxes=np.zeros((2, 5))), 100, AREA)
