"""Coverage of lines, discs, polygons and letters; projected boxes on pictures."""

from __future__ import annotations

import numpy as np
import pytest

from suite3d.report.camera import draw_boxes_on_image, read_image
from suite3d.report.canvas import Canvas
from suite3d.report.font import text_mask, text_width
from suite3d.report.png import write_png

WHITE = (255, 255, 255)


def test_areas_are_what_geometry_says():
    canvas = Canvas((100, 100))
    canvas.polygon([[10, 10], [60, 10], [60, 40], [10, 40]], WHITE)
    assert canvas.pixels[..., 0].sum() / 255 == pytest.approx(50 * 30)
    canvas = Canvas((100, 100))
    canvas.polygon([[20.3, 20], [20, 70.2], [80, 50]], WHITE)  # clockwise in pixels or not must not matter
    reverse = Canvas((100, 100))
    reverse.polygon([[80, 50], [20, 70.2], [20.3, 20]], WHITE)
    assert canvas.pixels[..., 0].sum() / 255 == pytest.approx(0.5 * abs((-0.3) * 30 - 50.2 * 59.7), rel=0.03)
    np.testing.assert_allclose(canvas.pixels, reverse.pixels, atol=1e-3)


def test_a_line_covers_its_length_times_width():
    canvas = Canvas((100, 100))
    canvas.line((10, 10), (70, 90), WHITE, width=3)
    assert canvas.pixels[..., 0].sum() / 255 == pytest.approx(100 * 3 + np.pi * 1.5**2, rel=0.03)


def test_a_disc_covers_its_area_wherever_its_centre_falls():
    for center in ([20, 20], [20.5, 20.25], [19.9, 20.6]):
        canvas = Canvas((40, 40))
        canvas.points([center], WHITE, size=6)
        assert canvas.pixels[..., 0].sum() / 255 == pytest.approx(np.pi * 9, rel=0.08)


def test_points_mix_their_colours_and_the_order_does_not_matter():
    rng = np.random.default_rng(0)
    xy, colors = rng.uniform(0, 30, (300, 2)), rng.integers(0, 255, (300, 3))
    order = rng.permutation(300)
    first, second = Canvas((30, 30)), Canvas((30, 30))
    first.points(xy, colors, size=2)
    second.points(xy[order], colors[order], size=2)
    np.testing.assert_allclose(first.pixels, second.pixels, atol=1e-3)


def test_drawing_off_the_picture_is_cut():
    canvas = Canvas((20, 20))
    canvas.line((-50, -50), (-5, -9), WHITE)
    canvas.line((500, 3), (600, 3), WHITE)
    canvas.points([[-3, 5], [25, 5]], WHITE)
    canvas.polygon([[30, 30], [40, 30], [40, 40]], WHITE)
    canvas.text(-100, 5, "gone", WHITE)
    canvas.text(5, 25, "gone", WHITE)
    assert canvas.pixels.sum() == 0
    canvas.text(-3, -2, "AB", WHITE)
    np.testing.assert_array_equal(canvas.image()[:5, :8, 0] > 0, text_mask("AB")[2:, 3:11])


def test_letters_are_distinct_and_unknown_ones_show():
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:;-+/()[]%=_<>|#*'\"!?&@$~^"
    shapes = {text_mask(letter).tobytes() for letter in letters}
    assert len(shapes) == len(letters) and all(text_mask(letter).any() for letter in letters)
    np.testing.assert_array_equal(text_mask("\u4e2d"), text_mask("?"))
    assert text_mask("abc", scale=2).shape == (14, text_width("abc", scale=2))


CAMERA = np.array([[100.0, 0, 160, 0], [0, 100, 120, 0], [0, 0, 1, 0]]) @ np.array([[0, -1.0, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def drawn(boxes, **options):
    image = draw_boxes_on_image(np.zeros((240, 320, 3), dtype=np.uint8), boxes, CAMERA, color=WHITE, **options)
    return np.argwhere(image.max(axis=2) > 128)


def test_a_box_ahead_is_drawn_where_its_corners_project():
    # 10 m ahead, 2 m cube: near face at 9 m spans +-100/9 pixels about (160, 120).
    pixels = drawn([[10, 0, 0, 2, 2, 2, 0]], width=1)
    reach = 100 / 9
    np.testing.assert_allclose(pixels.min(axis=0) + 0.5, [120 - reach, 160 - reach], atol=1)
    np.testing.assert_allclose(pixels.max(axis=0) + 0.5, [120 + reach, 160 + reach], atol=1)


def test_boxes_behind_are_not_drawn_and_boxes_through_the_camera_are_cut():
    assert not len(drawn([[-10, 0, 0, 2, 2, 2, 0]]))
    assert not len(drawn([[10, 50, 0, 2, 2, 2, 0]]))
    through = drawn([[0, 3, 0, 12, 2, 2, 0]])
    assert len(through) and through[:, 1].max() < 160  # to the left of the camera only
    assert not len(drawn(None)) and not len(drawn(np.zeros((0, 7))))


def test_captions_and_checks():
    plain, captioned = drawn([[10, 0, 0, 2, 2, 2, 0]]), drawn([[10, 0, 0, 2, 2, 2, 0]], captions=["Car"])
    assert captioned[:, 0].min() < plain[:, 0].min() - 5
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        draw_boxes_on_image(np.zeros((4, 4, 3), dtype=np.uint8), [], np.eye(3))


def test_pictures_are_read_or_left_out(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_png(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, axis=2))
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:40])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert all(read_image(tmp_path / name) is None for name in ("broken.png", "broken.jpg", "none.png"))
