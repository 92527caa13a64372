"""CVRL: the loss is SimCLR's on the pairs, blur and solarisation are what they say, near pairs are drawn more often."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from suite3d.image.appearance import AppearanceConfig, change_appearance, gaussian_blur, solarise
from suite3d.image.views import IMAGENET_MEAN, IMAGENET_STD, ViewConfig
from suite3d.video.data.lists import VideoItem
from suite3d.video.data.pairs import IntervalClipSource
from suite3d.video.methods.cvrl import CVRL, CVRLConfig
from tests.video.methods.clips import batch
from tests.video.methods.pairs import TinyEncoder, pair_batch

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def method(**config):
    torch.manual_seed(0)
    return CVRL(TinyEncoder(), CVRLConfig(**{"hidden": 16, "dim": 8} | config))


def test_loss_is_its_definition():
    off = AppearanceConfig()
    model, clips = method(first=off, second=off), pair_batch(4)
    loss = model(clips).loss
    pixels = torch.cat([clips.pixels(0), clips.pixels(1)])
    z = model.projector(model.encoder(pixels).mean(1)).double()
    z = [row / row.norm() for row in z]
    expected = 0.0
    for i in range(8):
        scores = {k: math.exp((z[i] @ z[k]).item() / 0.1) for k in range(8) if k != i}
        expected -= math.log(scores[(i + 4) % 8] / sum(scores.values())) / 8
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_views_are_blurred_and_solarised_by_seed():
    model, clips = method(), pair_batch(64)
    first, second = model.views(clips).chunk(2)
    changed = lambda x, view: (x - clips.pixels(view)).abs().flatten(1).amax(1) > 1e-4  # noqa: E731
    assert changed(first, 0).float().mean() > 0.9, "all of the first clips, but for the faintest blurs"
    assert 0.1 < changed(second, 1).float().mean() < 0.5, "0.1 blurred and 0.2 solarised"
    assert torch.equal(model.views(clips), model.views(clips))
    with pytest.raises(ValueError, match="windows=2"):
        model(batch(2))
    twice = replace(clips, boxes=clips.boxes.repeat(1, 1, 2, 1), flips=clips.flips.repeat(1, 1, 2))
    with pytest.raises(ValueError, match="repeats=1"):
        model(twice)


def test_blur_is_the_kernel_applied_pixel_by_pixel():
    clip = torch.rand(2, 2, 2, 7, 9, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5, 1.7])
    out = gaussian_blur(clip, sigma, radius=2)
    for b, (y, x) in enumerate([(0, 3), (4, 8)]):
        for c in range(2):
            weights, total = 0.0, 0.0
            for i in range(max(y - 2, 0), min(y + 3, 7)):
                for j in range(max(x - 2, 0), min(x + 3, 9)):
                    w = math.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * float(sigma[b]) ** 2))
                    weights, total = weights + w, total + w * float(clip[b, c, 1, i, j])
            assert out[b, c, 1, y, x].item() == pytest.approx(total / weights, abs=1e-5)
    torch.testing.assert_close(gaussian_blur(torch.full_like(clip, 0.3), sigma, radius=2), torch.full_like(clip, 0.3))


def test_solarisation_in_normalised_units():
    x = torch.rand(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    out = solarise((x - shift) / scale, mean=IMAGENET_MEAN, std=IMAGENET_STD) * scale + shift
    torch.testing.assert_close(out, torch.where(x >= 0.5, 1 - x, x), atol=1e-6, rtol=1e-5)


def test_appearance_is_one_draw_a_clip_and_independent_of_the_batch():
    clip = torch.rand(6, 3, 4, 20, 20, generator=torch.Generator().manual_seed(0))
    config, seeds = AppearanceConfig(blur=0.5, solarise=0.5), list(range(6))
    out = change_appearance(clip, config, seeds, **PLAIN)
    for i in range(6):
        torch.testing.assert_close(change_appearance(clip[i : i + 1], config, seeds[i : i + 1], **PLAIN), out[i : i + 1], atol=1e-6, rtol=1e-6)
    still = clip[:, :, :1].expand(-1, -1, 4, -1, -1)
    frames = change_appearance(still, config, seeds, **PLAIN)
    torch.testing.assert_close(frames, frames[:, :, :1].expand_as(frames))
    assert change_appearance(clip, AppearanceConfig(), seeds, **PLAIN) is clip


def source(frames=8, stride=2):
    return IntervalClipSource([VideoItem(path="v", label=None)], frames=frames, stride=stride, augment=ViewConfig(), windows=2)


def test_intervals_fall_linearly():
    rng, count = np.random.default_rng(0), 16 + 9  # starts 0 ... 9
    pairs = np.stack([source().draw_starts(count, rng) for _ in range(20000)])
    assert pairs.min() == 0 and pairs.max() == 9
    intervals = np.abs(pairs[:, 0] - pairs[:, 1])
    share = np.bincount(intervals, minlength=10) / len(pairs)
    expected = [((10 - d) ** 2 - (9 - d) ** 2) / 100 for d in range(10)]  # the triangle's mass on [d, d + 1)
    np.testing.assert_allclose(share, expected, atol=0.01)
    assert abs((pairs[:, 0] < pairs[:, 1]).sum() / (intervals > 0).sum() - 0.5) < 0.02
    near = pairs[intervals == 5].min(axis=1)
    np.testing.assert_allclose(np.bincount(near, minlength=5) / len(near), 0.2, atol=0.03)
    assert source().draw_starts(3, rng).tolist() == [0, 0], "a short video has one start"


def test_loss_falls_and_features_are_pooled():
    model, clips = method(), pair_batch(6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(30):
        output = model(clips)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert output.features.shape == (12, 6) and not output.features.requires_grad
    assert [layer.out_features for layer in model.projector if isinstance(layer, nn.Linear)] == [16, 16, 8]
