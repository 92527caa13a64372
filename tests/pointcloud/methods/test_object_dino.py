"""DINO on object clouds: the loss is the image method's definition on crops of clouds, and it learns, repeats and shows its views."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from suite3d.methods.dino import DINOConfig
from suite3d.pointcloud.methods.object_dino import ObjectDINO
from tests.core.methods.joint import trained
from tests.core.methods.test_dino import definition
from tests.pointcloud.objects.clouds import MULTI, ONE, batch, encoder


def method(model=None, **config):
    torch.manual_seed(0)
    sizes = {"prototypes": 24, "hidden": 16, "bottleneck": 8, "momentum": (0.9, 1.0)}
    return ObjectDINO(model or encoder(class_token=True), DINOConfig(**(sizes | config)))


@pytest.mark.parametrize("class_token", [True, False])
def test_loss_is_its_definition(class_token):
    model, data = method(encoder(class_token=class_token)), batch(5, MULTI)
    trained(model, data, steps=3)
    model.eval()  # each view through the encoder by itself gives the same as in a run
    centre = model.centre.value.double().clone()
    assert centre.abs().max() > 0
    output = model(data)

    def vector(network, view):
        first, tokens = network.encode(network.group(data.views[view]))
        return first[:, 0] if class_token else tokens.mean(dim=1)

    with torch.no_grad():
        student = [model.head(vector(model.student, view)).double() for view in range(4)]
        teacher = [model.teacher_head(vector(model.encoder, view)).double() for view in range(2)]
    assert output.loss.item() == pytest.approx(definition(student, teacher, centre, (0.1, model.teacher_temperature)), abs=1e-5)
    assert output.features.shape == (10, 16) and not output.features.requires_grad
    assert 0 < float(output.metrics["teacher_entropy"]) <= math.log(24) + 1e-5


def test_learns_and_repeats():
    data = batch(6, MULTI)

    def losses():
        model = method(teacher_temperature=(0.04, 0.04), momentum=(1.0, 1.0))  # a moving teacher moves the loss
        with torch.no_grad():
            for _ in range(40):  # the centre starts at 0
                model(data)
        return trained(model, data)

    first = losses()
    assert first[-1] < first[0] - 0.3
    assert first == losses(), "the same seed, the same losses"


def test_gradient_reaches_the_student_alone():
    model = method()
    model(batch(4, MULTI)).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.student.parameters())
    assert sum(p.grad.abs().sum() > 0 for p in model.student.parameters()) > 0.9 * len(list(model.student.parameters()))
    assert all(p.grad is None for part in (model.encoder, model.teacher_head) for p in part.parameters())


def test_picture_shows_every_view():
    picture = method()(batch(4, MULTI)).visuals()["views"]
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[1] % 4 == 0
    cells = np.split(picture, 4, axis=1)
    assert all((cell[60:200].max(axis=2) > 90).sum() > 20 for cell in cells), "points in each"
    assert not np.array_equal(cells[0], cells[1])


def test_bad_input():
    with pytest.raises(ValueError, match="at least 2 views"):
        method()(batch(3, ONE))
