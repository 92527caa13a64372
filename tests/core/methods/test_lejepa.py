"""LeJEPA: the loss is the prediction of the large views' mean and the Epps-Pulley test along directions that change with the step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite3d.image.data.source import ViewGroup
from suite3d.masking import sub_generator
from suite3d.methods.lejepa import LeJEPA, LeJEPAConfig
from tests.core.methods.joint import MULTI, TWO, VIEW, batch, gradient_norm, resnet, trained, vit

ENCODERS = {"vit": lambda: vit(any_size=True), "resnet": resnet}


def method(kind="vit", **config):
    torch.manual_seed(0)
    return LeJEPA(ENCODERS[kind](), LeJEPAConfig(**({"hidden": 16, "dim": 4, "slices": 6} | config)))


def embedded(model, data):
    """``(V, B, dim)``: view by view through the encoder, all through the head at once (its batch norm)."""
    features = torch.cat([model.encoder.encode(data.pixels(view))[0][:, 0] for view in range(len(data.views))])
    return model.projector(features).detach().double().numpy().reshape(len(data.views), len(data), -1)


def epps_pulley(x):
    """Of ``(M,)`` projections against the standard normal: 17 knots in [-5, 5], trapezoid rule, complex numbers."""
    knots = np.linspace(-5, 5, 17)
    normal = np.exp(-(knots**2) / 2)
    error = np.abs(np.exp(1j * knots * x[:, None]).mean(axis=0) - normal) ** 2 * normal
    return len(x) * ((error[1:] + error[:-1]) / 2 * np.diff(knots)).sum()


def definition(z, step, weight, slices):
    generator = sub_generator(step, "directions")
    centre, prediction, gaussian = z[:2].mean(axis=0), [], []
    for view in z:
        prediction.append(np.mean([np.sum((centre[i] - view[i]) ** 2) / z.shape[2] for i in range(z.shape[1])]))
        directions = torch.randn(slices, z.shape[2], generator=generator).double().numpy()
        gaussian.append(np.mean([epps_pulley(view @ a / np.linalg.norm(a)) for a in directions]))
    return (1 - weight) * np.mean(prediction) + weight * np.mean(gaussian), np.mean(prediction), np.mean(gaussian)


@pytest.mark.parametrize("views", [TWO, MULTI], ids=["two", "multi-crop"])
def test_loss_is_its_definition(views):
    model, data = method(weight=0.3), batch(7, views)
    model.after_step(4, 10)
    output = model(data)
    loss, prediction, gaussian = definition(embedded(model, data), 5, 0.3, 6)
    assert output.loss.item() == pytest.approx(loss, rel=1e-5, abs=1e-5)
    assert output.metrics["prediction"].item() == pytest.approx(prediction, rel=1e-5, abs=1e-5)
    assert output.metrics["gaussian"].item() == pytest.approx(gaussian, rel=1e-5, abs=1e-5)
    assert output.features.shape == (14, 16) and not output.features.requires_grad


def test_directions_are_those_of_the_step():
    model, data = method(), batch(6)
    losses = []
    for step in (0, 1, 0):
        model.step.fill_(step)
        losses.append(model(data).metrics["gaussian"].item())
    assert losses[0] == losses[2] != losses[1]
    model.after_step(7, 10)
    assert int(model.state_dict()["step"]) == 8, "a resumed run goes on with the directions of its step"


def test_no_gradient_is_stopped():
    model, data = method(weight=0.0), batch(6, MULTI)
    model(data).loss.backward()
    weights = [p for p in model.parameters() if p.grad is not None]
    slope = sum(p.grad.square().sum() for p in weights).sqrt()
    losses = []
    with torch.no_grad():
        for step in (1e-3, -2e-3):  # along the gradient, and back past the start
            for p in weights:
                p.add_(p.grad / slope, alpha=step)
            losses.append(model(data).loss.item())
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(slope.item(), rel=0.02), "the loss changes as its gradient says"


@pytest.mark.parametrize("kind", ENCODERS)
def test_learns_and_repeats(kind):
    data = batch(8, MULTI)
    assert gradient_norm(method(kind), data) > 0
    losses = trained(method(kind, slices=64), data)
    assert losses[-1] < 0.7 * losses[0]
    assert trained(method(kind, slices=64), data, steps=4) == losses[:4]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least two samples"):
        method()(batch(1))
    with pytest.raises(ValueError, match="2 views"):
        method()(batch(4, [ViewGroup(view=VIEW)]))
    for wrong in ({"weight": 1.5}, {"slices": 0}, {"dim": 0}):
        with pytest.raises(ValueError, match="weight in"):
            LeJEPAConfig(**wrong)
