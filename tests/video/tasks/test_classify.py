"""Training clips and labels are functions of the seeds; testing averages every view; sampling as in the released code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from suite3d.image.views import ViewConfig
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.video.data.batch import ClipBatch
from suite3d.video.data.lists import VideoItem
from suite3d.video.data.mix import MixConfig, draw_mix
from suite3d.video.data.randaugment import EraseConfig, RandAugmentConfig
from suite3d.video.data.segments import SegmentSource
from suite3d.video.tasks.classify import ClassifierConfig, ClipClassifier, training_pictures

PLAIN = ClassifierConfig(
    mix=MixConfig(mixup=0, cutmix=0, smoothing=0), randaugment=RandAugmentConfig(layers=0), erase=EraseConfig(probability=0), head_scale=1.0
)


def batch(size=4, *, windows=1, repeats=1, labels=None, seeds=None, seed=0):
    rng = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (size, windows * 4, 24, 24, 3), generator=rng, dtype=torch.uint8)
    boxes = torch.tensor([0, 0, 16, 16]) + torch.randint(0, 8, (size, windows, repeats, 4), generator=rng) * torch.tensor([1, 1, 0, 0])
    return ClipBatch(
        frames=frames,
        boxes=boxes,
        flips=torch.zeros(size, windows, repeats, dtype=torch.bool),
        colors=None,
        labels=torch.arange(size) % 3 if labels is None else torch.tensor(labels),
        names=[f"clip{i}" for i in range(size)],
        seeds=list(range(size)) if seeds is None else seeds,
        starts=torch.zeros(size, windows, dtype=torch.int64),
        short=torch.zeros(size, dtype=torch.bool),
        clip=(4, 16),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def classifier(config=None, classes=3):
    torch.manual_seed(0)
    encoder = VisionTransformer(ViTConfig(dim=16, depth=2, heads=2, clip=(4, 16, 16), patch=(2, 8, 8), final_norm=False))
    return ClipClassifier(encoder, [f"class{i}" for i in range(classes)], config)


def test_plain_training_is_cross_entropy_on_the_crops():
    model, clips = classifier(PLAIN), batch(repeats=2)
    pixels, targets = model.prepare(clips)
    torch.testing.assert_close(pixels, clips.pixels())
    assert torch.equal(targets.argmax(1), clips.labels.repeat_interleave(2))
    logits = model.head(model.encoder(pixels))
    torch.testing.assert_close(model(clips).loss, torch.nn.functional.cross_entropy(logits, clips.labels.repeat_interleave(2)))


def test_labels_keep_their_mass_and_follow_the_mix():
    model = classifier(ClassifierConfig())
    for start in range(0, 40, 4):
        clips = batch(seeds=list(range(start, start + 4)))
        pixels, targets = model.prepare(clips)
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        mix = draw_mix(model.config.mix, clips.view_seeds(), (16, 16))
        for i in range(4):
            own, other = int(clips.labels[i]), int(clips.labels[3 - i])
            expected = torch.full((3,), 0.1 / 3)
            expected[own] += 0.9 * mix.share
            expected[other] += 0.9 * (1 - mix.share)
            torch.testing.assert_close(targets[i], expected)
        again, _ = model.prepare(clips)
        assert torch.equal(pixels, again)


def test_repeats_are_augmented_apart():
    clips = batch(2, repeats=2)
    clips.boxes[:, :, 1] = clips.boxes[:, :, 0]  # the same crop twice
    model = classifier(ClassifierConfig(mix=MixConfig(mixup=0, cutmix=0), randaugment=RandAugmentConfig(probability=1.0)))
    pixels, _ = model.prepare(clips)
    assert not torch.equal(pixels[0], pixels[1]) and not torch.equal(pixels[2], pixels[3])


def test_every_view_counts_once_after_the_softmax():
    model, clips = classifier(PLAIN).eval(), batch(2, windows=3, repeats=2)
    together = model.predict(clips)
    expected = torch.zeros(2, 3)
    for video in range(2):
        for window in range(3):
            pixels = clips.pixels(window)
            for repeat in range(2):
                with torch.no_grad():
                    expected[video] += model.head(model.encoder(pixels[2 * video + repeat][None])).softmax(1)[0]
    torch.testing.assert_close(together, expected / 6)
    torch.testing.assert_close(together.sum(1), torch.ones(2))


def test_unlabelled_clips_and_single_classes_are_refused():
    with pytest.raises(ValueError, match="clip1 has none"):
        classifier(PLAIN)(batch(2, labels=[0, -1]))
    with pytest.raises(ValueError, match="two classes"):
        classifier(classes=1)


def test_the_head_starts_undecided_and_gradients_reach_the_patches():
    model = classifier(ClassifierConfig())
    loss = model(batch()).loss
    assert loss.item() == pytest.approx(np.log(3), abs=1e-2)
    loss.backward()
    assert model.encoder.patch_embed.proj.weight.grad.abs().sum() > 0
    picture = training_pictures(batch(), model.prepare(batch())[0])["augmented"]
    assert picture.dtype == np.uint8 and picture.ndim == 3


def segments(**options):
    return SegmentSource([VideoItem(Path("x.mp4"), 0)], frames=16, stride=99, augment=ViewConfig(size=16), **options)


@pytest.mark.parametrize("count", [16, 37, 160, 1001])
def test_two_test_windows_are_videomaes_on_something_something(count):
    """There: int(tick x) and int(tick / 2 + tick x), merged in order, and every second one of them."""
    tick = count / 16
    merged = np.sort([int(tick * x) for x in range(16)] + [int(tick / 2 + tick * x) for x in range(16)])
    times = segments(sampling="uniform", windows=2).draw_times(count, np.random.default_rng(0))
    assert np.array_equal(times, [merged[0::2], merged[1::2]])
    middle = segments(sampling="uniform").draw_times(count, np.random.default_rng(0))
    assert np.array_equal(middle[0], merged[1::2])


def test_training_segments_take_one_frame_of_every_part():
    source = segments(windows=2)
    for seed in range(50):
        times = source.draw_times(160, np.random.default_rng(seed))
        assert np.array_equal(times // 10, np.tile(np.arange(16), (2, 1))) and not np.array_equal(times[0], times[1])
    short = source.draw_times(5, np.random.default_rng(0))
    assert short.min() >= 0 and short.max() <= 4 and (np.diff(short) >= 0).all() and source.span == 16
