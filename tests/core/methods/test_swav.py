"""SwAV: the loss is the swapped prediction of balanced assignments; prototypes wait, small crops only predict, the queue only balances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite3d.image.data.source import ViewGroup
from suite3d.methods.swav import SwAV, SwAVConfig
from tests.core.methods.joint import MULTI, TWO, VIEW, batch, gradient_norm, resnet, trained, vit

ENCODERS = {"vit": lambda: vit(any_size=True), "resnet": resnet}


def method(kind="vit", **config):
    torch.manual_seed(0)
    defaults = {"prototypes": 5, "hidden": 16, "dim": 8, "frozen_steps": 0}
    return SwAV(ENCODERS[kind](), SwAVConfig(**(defaults | config)), generator=torch.Generator().manual_seed(1))


def cosines(model, data):
    """``(V, B, K)`` scores, view by view through the encoder, all through the head at once (its batch norm)."""
    z = torch.cat([model.encoder.encode(data.pixels(view))[0][:, 0] for view in range(len(data.views))])
    z = model.projector(z).detach().double().numpy()
    w = model.prototypes.weight.detach().double().numpy()
    scores = (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    return scores.reshape(len(data.views), len(data), -1)


def balanced(scores, sweeps=3, eps=0.05):
    """Algorithm 1's sinkhorn on ``(N, K)`` as the appendix writes it."""
    q = np.exp(scores / eps)
    q /= q.sum()
    for _ in range(sweeps):
        q /= q.sum(axis=0) * q.shape[1]
        q /= q.sum(axis=1, keepdims=True) * q.shape[0]
    return q * len(q)


def definition(scores, queued=None, temperature=0.1):
    views, count, _ = scores.shape
    total = 0.0
    for g in range(2):
        pool = scores[g] if queued is None else np.concatenate((scores[g], queued[g]))
        target = balanced(pool)[:count]
        for v in range(views):
            if v != g:
                p = np.exp(scores[v] / temperature)
                total -= (target * np.log(p / p.sum(axis=1, keepdims=True))).sum(axis=1).mean() / (2 * (views - 1))
    return total


@pytest.mark.parametrize("views", [TWO, MULTI], ids=["two", "multi-crop"])
def test_loss_is_its_definition(views):
    model, data = method(), batch(7, views)
    output = model(data)
    scores = cosines(model, data)
    assert output.loss.item() == pytest.approx(definition(scores), abs=1e-5)
    nearest = scores[:2].argmax(2)
    assert output.metrics["same_prototype"].item() == pytest.approx((nearest[0] == nearest[1]).mean())
    assert output.features.shape == (14, 16) and not output.features.requires_grad


def test_queue_balances_once_it_is_full():
    model, data = method(queue=8, queue_start=0.5), batch(6)
    rows = [queue.rows.clone() for queue in model.queues]
    plain = model(data).loss.item()
    model.after_step(0, 10)
    assert int(model.queued) == 6 and not model.queue_on and all(not torch.equal(a, b.rows) for a, b in zip(rows, model.queues))
    model(data)
    model.after_step(4, 10)
    assert int(model.queued) == 12 and model.queue_on
    w = torch.nn.functional.normalize(model.prototypes.weight.detach(), dim=1)
    queued = np.stack([(queue.rows @ w.T).double().numpy() for queue in model.queues])
    loss = model(data).loss.item()
    assert loss == pytest.approx(definition(cosines(model, data), queued), abs=1e-5)
    assert abs(loss - plain) > 1e-4
    assert {"queues.0.rows", "queues.1.rows", "queued", "queue_on", "frozen"} <= model.state_dict().keys()


def test_prototypes_wait():
    model, data = method(frozen_steps=2), batch(6)
    start = model.prototypes.weight.detach().clone()
    assert model.prototypes.weight.requires_grad, "before the first step an optimiser must find them"
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    moved = []
    for step in range(4):
        optimizer.zero_grad()
        model(data).loss.backward()
        optimizer.step()
        model.after_step(step, 4)
        moved.append(not torch.equal(model.prototypes.weight, start))
    assert moved == [False, False, True, True]


def test_small_crops_only_predict():
    data = batch(6, MULTI)
    model = method().eval()
    whole = model(data).metrics["prototype_usage"]
    data.views = data.views[:2]
    torch.testing.assert_close(model(data).metrics["prototype_usage"], whole)


@pytest.mark.parametrize("kind", ENCODERS)
def test_learns_and_repeats(kind):
    data = batch(8, MULTI)
    assert gradient_norm(method(kind), data) > 0
    losses = trained(method(kind), data)
    assert losses[-1] < 0.9 * losses[0]
    assert trained(method(kind), data, steps=4) == losses[:4]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least two pictures"):
        method()(batch(1))
    with pytest.raises(ValueError, match="2 views"):
        method()(batch(4, [ViewGroup(view=VIEW)]))
    for wrong in ({"prototypes": 1}, {"eps": 0.0}, {"queue": -1}, {"queue_start": 2.0}, {"sweeps": 0}):
        with pytest.raises(ValueError):
            SwAVConfig(**wrong)
