"""OBoW: bags, classifier and loss are the paper's, the vocabulary is a queue of the teacher's places, the teacher is a moving average."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from suite3d.image.data.source import ViewGroup
from suite3d.image.views import ViewConfig
from suite3d.methods.obow import OBoW, OBoWConfig, new_words
from tests.core.methods.joint import MULTI, VIEW, batch, gradient_norm, resnet, trained, vit

PLAIN = ViewGroup(view=ViewConfig(size=16, crop="center", flip=0.5))
VIEWS = [PLAIN, ViewGroup(view=VIEW), MULTI[1]]


def method(encoder=resnet, **config):
    torch.manual_seed(0)
    sizes = {"words": 12, "inverse_delta": (10.0, 15.0) if encoder is resnet else (10.0,), "momentum": (0.9, 1.0), "scale_momentum": 0.9}
    return OBoW(encoder() if encoder is resnet else encoder(any_size=True), OBoWConfig(**(sizes | config)))


@torch.no_grad()
def test_loss_is_its_definition():
    model, data = method(), batch(4, VIEWS)
    with torch.enable_grad():
        trained(model, data, steps=4)  # vocabularies of real features
    model.eval()
    output, total = model(data), 0.0
    maps = model.teacher.levels(data.pixels(0))[::-1]
    crops = [model.encoder(data.pixels(view)).mean(1).double() for view in (1, 2, 3)]
    for level in range(2):
        words = model.words[level].rows.double()
        delta = float(model.scales[level].value) / (10, 15)[level]
        for b in range(4):
            bag = torch.zeros(12).double()
            for place in maps[level][b].flatten(1).T.double():
                scores = [math.exp(-float((place - word).square().sum()) / delta) for word in words]
                bag = torch.maximum(bag, torch.tensor([score / sum(scores) for score in scores]))
            bag = bag / bag.sum()
            for features in crops:
                generated = model.predictors[level].generate((words / words.norm(dim=1, keepdim=True)).float()).double()
                logits = [float(model.predictors[level].gamma) * torch.cosine_similarity(features[b], g, dim=0) for g in generated]
                total -= float((bag * torch.stack(logits).log_softmax(0)).sum()) / (2 * 4 * 3)
    assert output.loss.item() == pytest.approx(total, abs=1e-5)
    assert output.features.shape == (4, resnet().embed_dim)


def test_vocabulary_is_a_queue_of_places():
    model, data = method(), batch(4, VIEWS)
    before = [queue.rows.clone() for queue in model.words]
    places = model.teacher_places(data.pixels(0))
    model(data)
    for queue, old, features in zip(model.words, before, places):
        assert torch.equal(queue.rows[:4], new_words(features, data.view_seeds()).float())
        torch.testing.assert_close(queue.rows[4:], old[4:] * features.norm(dim=2).mean(), msg="random directions of the length of the features")
    side, features = 3, torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    words = new_words(features, [1, 2])
    for b in range(2):
        means = []
        for row in range(side):
            for column in range(side):
                around = [features[b, 3 * i + j] for i in range(side) for j in range(side) if abs(i - row) < 2 and abs(j - column) < 2]
                means.append(torch.stack(around).mean(0))
        assert min(float((words[b] - mean).norm()) for mean in means) < 1e-5


@pytest.mark.parametrize("encoder", [vit, resnet])
def test_learns_and_repeats(encoder):
    data = batch(6, VIEWS)
    assert gradient_norm(method(encoder), data) > 0

    def losses():
        model = method(encoder, momentum=(1.0, 1.0))
        with torch.no_grad():
            for _ in range(4):  # words are real features
                model(data)
        return trained(model, data)

    first = losses()
    assert min(first[-3:]) < first[0]
    assert first == losses()


def test_teacher_moves_and_state_is_kept():
    model, data = method(), batch(4, VIEWS)
    start = {name: value.clone() for name, value in model.teacher.named_parameters()}
    trained(model, data, steps=1)
    for name, value in model.teacher.named_parameters():
        torch.testing.assert_close(value, 0.9 * start[name] + 0.1 * model.encoder.get_parameter(name))
        assert value.grad is None
    other = method()
    other.load_state_dict(model.state_dict())
    assert bool(other.started) and other.scales[0].value == model.scales[0].value > 0
    assert torch.equal(other.words[1].rows, model.words[1].rows) and other.words[1].position == 4


def test_bad_input():
    with pytest.raises(ValueError, match="inverse_delta"):
        method(vit, inverse_delta=(10.0, 15.0))
    for bad in ({"words": 1}, {"inverse_delta": ()}, {"inverse_delta": (0.0,)}, {"momentum": (1.0, 0.0)}):
        with pytest.raises(ValueError, match="expected"):
            OBoWConfig(**bad)
    data = batch(3, VIEWS)
    with pytest.raises(ValueError, match="at least 2 views"):
        method()(replace(data, views=data.views[:1]))
