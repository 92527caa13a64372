"""MoCo: the loss is equation 1 on the queue, keys come from the average and enter the queue, MoCHi's negatives come in after the warm-up."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from suite3d.image.data.source import ViewGroup
from suite3d.methods.moco import MixingConfig, MoCo, MoCoConfig
from tests.core.methods.joint import VIEW, batch, gradient_norm, resnet, trained, vit

ENCODERS = {"vit": vit, "resnet": resnet}


def method(encoder=vit, **config):
    torch.manual_seed(0)
    defaults = {"hidden": 16, "dim": 8, "queue": 20, "momentum": 0.9}
    return MoCo(encoder(), MoCoConfig(**(defaults | config)), generator=torch.Generator().manual_seed(1))


def mixed(**config):
    return MixingConfig(**({"hardest": 3, "pairs": 4, "with_query": 2, "warmup": 0.0} | config))


def embeddings(model, data):
    query, key = (head(encoder.encode(data.pixels(view))[0][:, 0]).detach().double() for view, encoder, head in branches(model))
    return F.normalize(query, dim=1), F.normalize(key, dim=1)


def branches(model):
    return ((0, model.query.encoder, model.query.projector), (1, model.key.encoder, model.key.projector))


def definition(query, key, negatives, temperature=0.2):
    losses = []
    for q, k, rows in zip(query, key, negatives):
        scores = [float(q @ k) / temperature] + [float(q @ row) / temperature for row in rows]
        losses.append(math.log(sum(math.exp(score) for score in scores)) - scores[0])
    return sum(losses) / len(losses)


def test_loss_is_its_definition():
    model, data = method(), batch(5)
    with torch.no_grad():
        model.key.projector[0].weight.mul_(1.5)  # so that keys are not the query's own
    query, key = embeddings(model, data)
    output = model(data)
    assert output.loss.item() == pytest.approx(definition(query, key, [model.queue.rows.double()] * 5), abs=1e-5)
    hardest = (query @ model.queue.rows.double().T).amax(1)
    assert output.metrics["accuracy"].item() == pytest.approx(((query * key).sum(1) > hardest).double().mean().item())


def test_mixed_negatives_join_the_queue():
    model, data = method(mixing=mixed(hardest=1, with_query=0)), batch(4)
    query, key = embeddings(model, data)
    rows = model.queue.rows.double()
    hard = rows[(query @ rows.T).argmax(1)]  # mixing one negative with itself gives that negative
    expected = definition(query, key, [torch.cat((rows, row.expand(4, -1))) for row in hard])
    assert model(data).loss.item() == pytest.approx(expected, abs=1e-5)
    full, plain = method(mixing=mixed()), method()
    assert full(data).loss == full(data).loss, "drawn from the seeds"
    assert full(data).loss > plain(data).loss + 0.05, "more and harder negatives"


def test_mixing_waits_for_the_warm_up():
    model, data = method(mixing=mixed(warmup=0.5)), batch(4)
    assert model(data).loss.item() == pytest.approx(method()(data).loss.item(), abs=1e-6)
    model.after_step(3, 10)
    assert not model.mixing_on
    model.after_step(4, 10)
    assert model.mixing_on and model.state_dict()["mixing_on"], "a resumed run mixes on"


def test_average_moves_and_keys_enter_the_queue():
    model, data = method(), batch(6)
    _, key = embeddings(model, data)
    model(data).loss.backward()
    assert all(p.grad is None for p in model.key.parameters()), "no gradient reaches the keys"
    before = {name: p.clone() for name, p in model.key.named_parameters()}
    rows = model.queue.rows.clone()
    with torch.no_grad():
        for p in model.query.parameters():
            p.add_(1.0)
    model.after_step(0, 10)
    for name, p in model.key.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.1, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.queue.rows[:6].double(), key, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.queue.rows[6:], rows[6:]) and int(model.queue.position) == 6
    names = model.state_dict().keys()
    assert {"queue.rows", "queue.position", "mixing_on"} <= names and any(name.startswith("key.encoder.") for name in names)


def test_evaluation_leaves_the_queue():
    model, data = method().eval(), batch(4)
    rows = model.queue.rows.clone()
    model(data)
    model.after_step(0, 10)
    assert torch.equal(model.queue.rows, rows)


@pytest.mark.parametrize("kind", ENCODERS)
def test_learns_and_repeats(kind):
    data = batch()
    assert gradient_norm(method(ENCODERS[kind]), data) > 0
    model, others = method(ENCODERS[kind]), batch(20, start=8)
    with torch.no_grad():
        model.queue.push(F.normalize(model.key(others.pixels())[1], dim=1))
    losses = trained(model, data, lr=0.003, after=False)  # with it, the queue would fill with the keys of this one batch
    assert losses[-1] < 0.85 * losses[0], "towards keys that stand still"
    assert trained(method(ENCODERS[kind]), data, steps=4) == trained(method(ENCODERS[kind]), data, steps=4)


def test_bad_input_is_refused():
    for wrong in ({"temperature": 0.0}, {"momentum": 1.1}, {"queue": 0}):
        with pytest.raises(ValueError):
            MoCoConfig(**wrong)
    with pytest.raises(ValueError, match="hardest"):
        MixingConfig(hardest=0)
    with pytest.raises(ValueError, match="2 views"):
        method()(batch(2, [ViewGroup(view=VIEW)]))
