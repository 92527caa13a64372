"""LeJEPA on video: the loss is its definition on the pooled features of all clips and crops, directions change with the step."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from suite3d.image.appearance import AppearanceConfig
from suite3d.masking import sub_generator
from suite3d.video.methods.video_lejepa import VideoLeJEPA, VideoLeJEPAConfig
from tests.video.methods.clips import batch, encoder
from tests.video.methods.pairs import TinyEncoder, pair_batch

PLAIN = {"first": AppearanceConfig(), "second": AppearanceConfig()}


def method(network=TinyEncoder, **config):
    torch.manual_seed(0)
    return VideoLeJEPA(network(), VideoLeJEPAConfig(**{"hidden": 16, "dim": 4, "slices": 8} | config))


def cropped(clips, repeats):
    """The same clips with several crops of each, all different."""
    boxes = clips.boxes.repeat(1, 1, repeats, 1)
    for repeat in range(repeats):
        boxes[:, :, repeat] = torch.tensor([repeat, 2 * repeat, 20, 20])
    return replace(clips, boxes=boxes, flips=clips.flips.repeat(1, 1, repeats))


def definition(z, weight, generator):
    """Algorithm 2 of LeJEPA with loops, for z (V, B, D)."""
    z = z.detach().double()
    prediction = sum(((z.mean(0) - view) ** 2).mean() for view in z) / len(z)
    knots = torch.linspace(-5, 5, 17, dtype=torch.float64)
    gaussian = 0.0
    for view in z:
        directions = torch.nn.functional.normalize(torch.randn(8, z.shape[2], generator=generator), dim=1).double()
        for direction in directions:
            phases = [(1j * s * (view @ direction)).exp().mean() for s in knots]
            error = [
                abs(phase - math.exp(-(float(s) ** 2) / 2)) ** 2 * math.exp(-(float(s) ** 2) / 2) for phase, s in zip(phases, knots, strict=True)
            ]
            gaussian += view.shape[0] * float(torch.trapezoid(torch.stack(error), knots)) / len(directions) / len(z)
    return (1 - weight) * float(prediction) + weight * gaussian


@pytest.mark.parametrize("repeats", [1, 2])
def test_loss_is_its_definition_over_all_clips_and_crops(repeats):
    model, clips = method(weight=0.2, **PLAIN), cropped(pair_batch(4), repeats)
    model.after_step(2, 10)
    output = model(clips)
    views = [clips.pixels(window)[repeat::repeats] for window in (0, 1) for repeat in range(repeats)]
    z = model.projector(model.encoder(torch.cat(views)).mean(1)).unflatten(0, (2 * repeats, 4))
    assert output.loss.item() == pytest.approx(definition(z, 0.2, sub_generator(3, "directions")), rel=1e-4)
    assert output.features.shape == (8 * repeats, 6) and not output.features.requires_grad


def test_directions_follow_the_step_and_survive_a_resume():
    model, clips = method(**PLAIN), pair_batch(4)
    first = model(clips).loss.item()
    model.after_step(0, 10)
    second = model(clips).loss.item()
    other = method(**PLAIN)
    other.load_state_dict(model.state_dict())
    assert first != second and other(clips).loss.item() == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize("network", [TinyEncoder, lambda: encoder(clip=(8, 24, 24), dim=16, depth=1, heads=2)])
def test_loss_falls_repeats_and_reaches_the_encoder(network):
    def losses():
        model, clips, found = method(network), pair_batch(6), []
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(25):
            output = model(clips)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            model.after_step(step, 25)
            found.append(output.loss.item())
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.encoder.parameters() if parameter.ndim > 1)
        return found

    found = losses()
    assert found[-1] < 0.8 * found[0] and found == losses()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="windows=2"):
        method()(batch(2))
    with pytest.raises(ValueError, match="two samples|at least two"):
        method()(pair_batch(1))
    with pytest.raises(ValueError, match="weight"):
        VideoLeJEPAConfig(weight=-0.1)
