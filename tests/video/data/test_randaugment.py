"""The changes against Pillow, where it is installed; a clip's changes depend on its seed alone; erased boxes; label mass of mixed clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite3d.video.data.mix import Mix, MixConfig, draw_mix, mix_clips, soft_cross_entropy, soft_labels
from suite3d.video.data.pixel_ops import CHANGES, FILL, apply_change
from suite3d.video.data.randaugment import EraseConfig, RandAugmentConfig, draw_plan, erase, rand_augment

LEVEL = 0.7


def clips(n=3, t=2, h=20, w=28, seed=0):
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (n * t, 3, h // 4, w // 4), generator=rng).float()
    smooth = torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear").view(n, t, 3, h, w).transpose(1, 2)
    return (smooth * 0.7 + 20).to(torch.uint8).contiguous()


def pillow(name, frame, level):
    """One frame (3, H, W) through Pillow."""
    image_module = pytest.importorskip("PIL.Image", reason="needs Pillow")
    from PIL import ImageEnhance, ImageOps

    image = image_module.fromarray(frame.permute(1, 2, 0).numpy())
    strong, factor, affine = abs(level), 1 + 0.9 * level, image_module.Transform.AFFINE
    width, height = image.size
    warp = lambda matrix: image.transform(image.size, affine, matrix, image_module.Resampling.BILINEAR, fillcolor=FILL)  # noqa: E731
    middle_x, middle_y = width / 2, height / 2
    changes = {
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "posterize": lambda: image_module.fromarray(np.asarray(image) & np.uint8(0xFF & ~(2 ** (8 - (4 - int(strong * 4))) - 1))),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(strong * 256)),
        "solarize_add": lambda: image_module.fromarray(
            np.where(np.asarray(image) < 128, np.minimum(np.asarray(image).astype(int) + int(strong * 110), 255), np.asarray(image)).astype(np.uint8)
        ),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "rotate": lambda: image.rotate(30 * level, image_module.Resampling.BILINEAR, fillcolor=FILL),
        "shear_x": lambda: warp((1, 0.3 * level, -0.3 * level * middle_y, 0, 1, 0)),
        "shear_y": lambda: warp((1, 0, 0, 0.3 * level, 1, -0.3 * level * middle_x)),
        "translate_x": lambda: warp((1, 0, 0.45 * level * width, 0, 1, 0)),
        "translate_y": lambda: warp((1, 0, 0, 0, 1, 0.45 * level * height)),
    }
    return torch.from_numpy(np.array(changes[name]())).permute(2, 0, 1)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("sign", [1, -1])
def test_every_change_is_pillows(name, sign):
    batch = clips()
    levels = sign * torch.tensor([LEVEL, 0.31, 1.0])
    ours = apply_change(name, batch, levels)
    geometric = name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    for clip, level in enumerate(levels.tolist()):
        for frame in range(batch.shape[2]):
            theirs = pillow(name, batch[clip, :, frame], level).int()
            gap = (ours[clip, :, frame].int() - theirs).abs()
            if geometric:  # Pillow does not blend with what lies outside, so pixels at the picture's edge differ
                assert (gap <= 1).float().mean() > 0.88 and gap.median() <= 1
            else:
                assert gap.max() <= 1, (name, level)


def test_flat_frames_survive():
    flat = torch.full((1, 3, 2, 8, 8), 77, dtype=torch.uint8)
    for name in ("auto_contrast", "equalize", "rotate", "sharpness", "contrast"):
        out = apply_change(name, flat, torch.zeros(1))
        assert torch.equal(out, flat), name


def test_a_clips_changes_depend_on_its_seed_alone():
    config = RandAugmentConfig()
    batch = clips(4)
    together = rand_augment(batch, draw_plan(config, [5, 6, 7, 8]))
    for clip, seed in enumerate([5, 6, 7, 8]):
        assert torch.equal(rand_augment(batch[clip : clip + 1], draw_plan(config, [seed]))[0], together[clip])
    assert torch.equal(rand_augment(batch, draw_plan(RandAugmentConfig(layers=0), [1, 2, 3, 4])), batch)


def test_strengths_and_counts_are_those_of_the_recipe():
    plan = draw_plan(RandAugmentConfig(layers=4, magnitude=7, deviation=0.5, probability=0.5), list(range(2000)))
    assert plan.changes.shape == (4, 2000)
    assert abs((plan.changes >= 0).mean() - 0.5) < 0.03
    assert abs(np.abs(plan.levels).mean() - 0.7) < 0.005 and abs(np.abs(plan.levels).std() - 0.05) < 0.005
    counts = np.bincount(plan.changes[plan.changes >= 0], minlength=15) / (plan.changes >= 0).sum()
    assert np.abs(counts - 1 / 15).max() < 0.02


def test_erased_boxes_are_noise_in_the_same_place_of_all_frames():
    batch = torch.full((200, 3, 4, 24, 24), 9.0)
    out = erase(batch, EraseConfig(probability=0.25), list(range(200)))
    changed = (out != batch).any(1)  # [200, T, H, W]
    share = changed.flatten(1).any(1).float().mean()
    assert abs(share - 0.25) < 0.1
    assert torch.equal(changed.all(1), changed.any(1))
    for clip in changed[changed.flatten(1).any(1), 0]:
        rows, columns = clip.any(1).sum(), clip.any(0).sum()
        assert clip.sum() == rows * columns and 0.01 <= clip.float().mean() <= 0.36
    noise = out[out != 9.0]
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert torch.equal(erase(batch[3:4], EraseConfig(probability=1), [3]), erase(batch[:2], EraseConfig(probability=1), [3, 4])[:1])
    assert erase(batch, EraseConfig(probability=0), list(range(200))) is batch


def test_mixup_blends_pixels_and_labels_alike():
    pixels = torch.randn(5, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    mix = Mix(share=0.3)
    out = mix_clips(pixels, mix)
    for i in range(5):
        torch.testing.assert_close(out[i], 0.3 * pixels[i] + 0.7 * pixels[4 - i])
    targets = soft_labels(torch.tensor([0, 1, 2, 1, 0]), classes=4, smoothing=0.1, mix=mix)
    torch.testing.assert_close(targets.sum(1), torch.ones(5))
    torch.testing.assert_close(targets[1], torch.tensor([0.025, 0.925, 0.025, 0.025]))
    torch.testing.assert_close(targets[0], torch.tensor([0.925, 0.025, 0.025, 0.025]))
    mixed = soft_labels(torch.tensor([0, 3]), classes=4, mix=mix)
    torch.testing.assert_close(mixed, torch.tensor([[0.3, 0, 0, 0.7], [0.7, 0, 0, 0.3]]))


def test_cutmix_shares_are_the_pixels_that_are_left():
    pixels = torch.stack([torch.full((1, 2, 20, 30), float(value)) for value in range(4)])
    config = MixConfig(mixup=0.0, cutmix=1.0)
    shares = []
    for seed in range(60):
        mix = draw_mix(config, [seed, 1], (20, 30))
        out = mix_clips(pixels, mix)
        own = (out == pixels).flatten(1).float().mean(1)
        assert mix.box is not None or mix.share == 1.0
        torch.testing.assert_close(own, torch.full((4,), mix.share), atol=1e-6, rtol=0)
        shares.append(mix.share)
    assert min(shares) < 0.4 and max(shares) > 0.8


def test_which_mix_is_drawn_follows_the_switch_and_the_seed():
    config = MixConfig()
    drawn = [draw_mix(config, [seed], (16, 16)) for seed in range(400)]
    assert abs(np.mean([mix.box is not None for mix in drawn]) - 0.5) < 0.08
    assert draw_mix(config, [3, 4], (16, 16)) == draw_mix(config, [3, 4], (16, 16)) != draw_mix(config, [4, 3], (16, 16))
    assert draw_mix(MixConfig(probability=0.0), [1], (16, 16)).share == 1.0
    assert draw_mix(MixConfig(mixup=0.0, cutmix=0.0), [1], (16, 16)).share == 1.0
    assert all(draw_mix(MixConfig(cutmix=0.0), [seed], (16, 16)).box is None for seed in range(20))


def test_soft_cross_entropy_is_torchs():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    smoothed = soft_cross_entropy(logits, soft_labels(labels, classes=4, smoothing=0.1))
    torch.testing.assert_close(smoothed, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))
