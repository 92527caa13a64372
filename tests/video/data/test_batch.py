"""Crops on the device against torch's own resize, colours against torchvision's definitions written out, streams that do not mix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from suite3d.image.crops import crop_resize, normalise, resize_weights
from suite3d.image.views import IMAGENET_MEAN, IMAGENET_STD, LUMA, ViewConfig, draw_box, draw_color
from suite3d.video.data.batch import ClipBatch


def frames(*shape, seed=0):
    return torch.randint(0, 256, (*shape, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def slow(clip, box, flip, size):
    """One crop of (T, H, W, 3) by slicing and torch's anti-aliased resize: (3, T, S, S)."""
    top, left, tall, wide = box
    image = clip[:, top : top + tall, left : left + wide].permute(0, 3, 1, 2).float()
    image = F.interpolate(image, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return (image.flip(3) if flip else image).transpose(0, 1)


BOXES = [[[3, 5, 20, 31], [0, 0, 40, 56]], [[10, 1, 9, 9], [39, 55, 1, 1]]]


def test_crops_of_a_whole_batch_equal_torchs_resize_one_by_one():
    clips, boxes = frames(2, 3, 40, 56), torch.tensor(BOXES)
    flips = torch.tensor([[True, False], [False, True]])
    ours = crop_resize(clips, boxes, flips, 16)
    assert ours.shape == (4, 3, 3, 16, 16)
    for b in range(2):
        for r in range(2):
            torch.testing.assert_close(ours[2 * b + r], slow(clips[b], BOXES[b][r], flips[b, r], 16), atol=1e-3, rtol=1e-5)


def test_half_precision_products_are_within_a_third_of_a_grey_level():
    clips, boxes, flips = frames(2, 3, 40, 56), torch.tensor(BOXES), torch.zeros(2, 2, dtype=torch.bool)
    exact = crop_resize(clips, boxes, flips, 16, dtype=torch.float32)
    half = crop_resize(clips, boxes, flips, 16, dtype=torch.float16).float()
    assert (half - exact).abs().max() < 0.3


def test_pixels_outside_the_crop_are_never_read():
    clips = frames(1, 2, 30, 30)
    box, flip = torch.tensor([[[8, 9, 10, 12]]]), torch.zeros(1, 1, dtype=torch.bool)
    inside = crop_resize(clips, box, flip, 20)
    other = frames(1, 2, 30, 30, seed=1)
    other[:, :, 8:18, 9:21] = clips[:, :, 8:18, 9:21]
    assert torch.equal(inside, crop_resize(other, box, flip, 20))


def test_the_same_size_changes_nothing_and_weights_sum_to_one():
    clips = frames(1, 2, 24, 24)
    same = crop_resize(clips, torch.tensor([[[0, 0, 24, 24]]]), torch.zeros(1, 1, dtype=torch.bool), 24)
    assert torch.equal(same[0], clips[0].permute(3, 0, 1, 2).float())
    weights = resize_weights(torch.tensor([2.0, 5.0]), torch.tensor([3.0, 17.0]), 7, 30)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7))


def batch(clips, *, windows=1, colors=None, length=2, size=12, boxes=None):
    count = len(clips)
    boxes = torch.tensor([0, 0, 20, 20]).expand(count, windows, 2, 4) if boxes is None else boxes
    return ClipBatch(
        frames=clips,
        boxes=boxes,
        flips=torch.zeros(count, windows, 2, dtype=torch.bool),
        colors=colors,
        labels=torch.arange(count),
        names=[str(i) for i in range(count)],
        seeds=list(range(count)),
        starts=torch.zeros(count, windows, dtype=torch.int64),
        short=torch.zeros(count, dtype=torch.bool),
        clip=(length, size),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def test_clips_of_different_sizes_give_what_each_gives_alone():
    clips = [frames(2, 20, 30), frames(2, 44, 20, seed=1)]
    together = batch(clips).pixels()
    assert together.shape == (4, 3, 2, 12, 12)
    for i, clip in enumerate(clips):
        torch.testing.assert_close(together[2 * i : 2 * i + 2], batch(clip[None]).pixels())


def test_windows_are_told_apart():
    clips = frames(3, 4, 20, 20)
    views = batch(clips, windows=2)
    torch.testing.assert_close(views.pixels(0), batch(clips[:, :2]).pixels())
    torch.testing.assert_close(views.pixels(1), batch(clips[:, 2:]).pixels())
    seeds = [seed for view in (0, 1) for seed in views.view_seeds(view)]
    assert len(seeds) == 12 and len(set(seeds)) == 12


def test_normalised_pixels_are_what_the_mean_and_deviation_say():
    clips = frames(1, 2, 12, 12)
    boxes = torch.tensor([0, 0, 12, 12]).expand(1, 1, 2, 4)
    pixels = batch(clips, boxes=boxes).pixels()[0]
    expected = (clips[0].permute(3, 0, 1, 2) / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1, 1)
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=1e-5)
    assert pixels.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(batch(clips, boxes=boxes).pixels()[0], pixels), "autocast does not reach the pixels"


def jittered(rgb, config, seed, mean):
    """torchvision's brightness, contrast, saturation and hue by their definitions, on one (..., 3) image in [0, 1]."""
    rng = np.random.default_rng(seed)
    rng.random(2)
    b, c, s = (1 + v * rng.uniform(-1, 1) for v in (config.brightness, config.contrast, config.saturation))
    turn = config.hue * rng.uniform(-1, 1)
    rgb = rgb * b
    rgb = c * rgb + (1 - c) * mean * b
    grey = (rgb @ LUMA)[..., None]
    rgb = s * rgb + (1 - s) * grey
    y = rgb @ LUMA
    i, q = rgb @ np.array([0.5959, -0.2746, -0.3213]), rgb @ np.array([0.2115, -0.5227, 0.3112])
    angle = 2 * np.pi * turn
    i, q = i * np.cos(angle) - q * np.sin(angle), i * np.sin(angle) + q * np.cos(angle)
    to_rgb = np.linalg.inv(np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]))
    return np.stack([y, i, q], -1) @ to_rgb.T


def test_colour_changes_are_brightness_contrast_saturation_and_hue():
    config = ViewConfig(jitter=1.0)
    rgb = np.random.default_rng(1).random((5, 3))
    for seed in range(5):
        matrix = draw_color(config, 0.4, np.random.default_rng(seed))
        np.testing.assert_allclose(rgb @ matrix[:, :3].T + matrix[:, 3], jittered(rgb, config, seed, 0.4), atol=1e-5)


def test_no_jitter_is_the_identity_and_grey_has_no_colour():
    assert np.array_equal(draw_color(ViewConfig(), 0.5, np.random.default_rng(0)), np.eye(3, 4, dtype=np.float32))
    grey = draw_color(ViewConfig(gray=1.0), 0.5, np.random.default_rng(0))
    np.testing.assert_allclose(grey[0], [*LUMA, 0], atol=1e-6)
    assert (grey[0] == grey[1]).all()


def test_colours_are_applied_per_crop_and_cut_to_the_range():
    pixels = torch.rand(2, 3, 2, 4, 4) * 255
    colors = torch.stack([torch.eye(3, 4), torch.eye(3, 4) * 3])
    shown = normalise(pixels, colors, mean=(0, 0, 0), std=(1, 1, 1))
    torch.testing.assert_close(shown[0], pixels[0] / 255)
    torch.testing.assert_close(shown[1], (pixels[1] / 255 * 3).clamp(max=1))


@pytest.mark.parametrize("crop", ["multi_scale", "random_resized", "center", "three", "whole"])
@pytest.mark.parametrize(("height", "width"), [(240, 320), (64, 64), (37, 500)])
def test_boxes_lie_inside_the_frame(crop, height, width):
    config = ViewConfig(crop=crop)
    rng = np.random.default_rng(0)
    for place in range(200):
        top, left, tall, wide = draw_box(config, height, width, rng, place=place)
        assert top >= 0 and left >= 0 and tall > 0 and wide > 0 and top + tall <= height and left + wide <= width


def test_multi_scale_crops_are_videomaes():
    """Sides from the four scales, at most one step apart; thirteen places."""
    rng = np.random.default_rng(0)
    boxes = {draw_box(ViewConfig(), 240, 320, rng) for _ in range(4000)}
    sides = [240, 210, 180, 158]
    allowed = {(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1}
    assert {(tall, wide) for _, _, tall, wide in boxes} == allowed
    places = {(top, left) for top, left, tall, wide in boxes if (tall, wide) == (180, 180)}
    grid = {(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3)}
    assert places == {(15 * y, 35 * x) for y, x in grid}


def test_random_resized_crops_keep_area_and_aspect():
    rng = np.random.default_rng(0)
    config = ViewConfig(crop="random_resized", area=(0.3, 0.9), ratio=(0.8, 1.25))
    for _ in range(300):
        _, _, tall, wide = draw_box(config, 200, 220, rng)
        assert 0.29 < tall * wide / 44000 < 0.91 and 0.78 < wide / tall < 1.28


def test_three_crops_cover_the_long_side():
    config = ViewConfig(crop="three")
    rng = np.random.default_rng(0)
    assert [draw_box(config, 100, 160, rng, place=i) for i in range(3)] == [(0, 0, 100, 100), (0, 30, 100, 100), (0, 60, 100, 100)]
    assert draw_box(ViewConfig(crop="center"), 160, 100, rng) == (30, 0, 100, 100)


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"size": 0}, {"scales": (1.2,)}, {"area": (0.5, 0.1)}, {"ratio": (0.0, 1.0)}):
        with pytest.raises(ValueError, match="expected"):
            ViewConfig(**wrong)
