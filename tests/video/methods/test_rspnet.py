"""RSPNet: speeds, the two losses, the key encoder and the queue against the definition."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from suite3d.masking import generators_of
from suite3d.video.methods.rspnet import RSPNet, RSPNetConfig
from tests.video.methods.clips import batch
from tests.video.methods.pairs import TinyEncoder, pair_batch


def method(**config):
    torch.manual_seed(0)
    return RSPNet(TinyEncoder(), RSPNetConfig(**{"dim": 8, "queue": 12} | config), generator=torch.Generator().manual_seed(2))


def test_clips_play_at_the_speeds_they_should():
    model, clips = method(), pair_batch(20)
    clips.frames[:] = torch.arange(16, dtype=torch.uint8).view(1, 16, 1, 1, 1) * 10  # a frame shows its number
    shown = lambda x: (x[:, 0, :, 0, 0] * 0.229 + 0.485).mul(25.5).round().int().tolist()  # noqa: E731
    slow, fast = [0, 1, 2, 3], [0, 2, 4, 6]
    kinds = set()
    for query, positive, negative in zip(*map(shown, model.clips(clips))):
        speed = slow if query == slow else fast
        kinds.add(query == slow)
        assert query == speed
        assert positive == [8 + n for n in speed]
        assert negative == [8 + n for n in (fast if speed == slow else slow)]
    assert kinds == {True, False}
    with pytest.raises(ValueError, match="two windows"):
        model(batch(2))


def slow_step(model, clips):
    """The loss of one batch, one sample after the other."""
    first, second = clips.pixels(0), clips.pixels(1)
    fast = [bool(torch.rand((), generator=generator) < 0.5) for generator in generators_of(clips.view_seeds(), "speed")]
    half = first.shape[2] // 2
    at = lambda x, quick: x[:, ::2] if quick else x[:, :half]  # noqa: E731
    query = torch.stack([at(x, quick) for x, quick in zip(first, fast)])
    positive = torch.stack([at(x, quick) for x, quick in zip(second, fast)])
    negative = torch.stack([at(x, not quick) for x, quick in zip(second, fast)])

    def heads(branch, x):
        pooled = branch.encoder(x).mean(1)
        rows = [pooled @ head.weight.T + head.bias for head in (branch.appearance, branch.motion)]
        return [(row / row.norm(dim=1, keepdim=True)).double() for row in rows]

    with torch.no_grad():
        (qa, qm), (pa, pm), (na, nm) = heads(model.query, query), heads(model.key, positive), heads(model.key, negative)
    appearance = motion = 0.0
    for i in range(len(qa)):
        motion += max(0.0, 1 - float(qm[i] @ pm[i] - qm[i] @ nm[i]) / 0.07) / len(qa)
        for key in (pa[i], na[i]):
            own = math.exp(float(qa[i] @ key) / 0.07)
            rest = sum(math.exp(float(qa[i] @ row.double()) / 0.07) for row in model.queue.rows)
            appearance -= math.log(own / (own + rest)) / len(qa)
    return appearance, motion, pa


def test_loss_key_encoder_and_queue_over_three_steps():
    model = method(momentum=0.8)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    stored = model.queue.rows.clone()
    for step in range(3):
        clips = pair_batch(5, seed=step)
        key = copy.deepcopy(model.key)
        appearance, motion, keys = slow_step(copy.deepcopy(model), clips)
        output = model(clips)
        assert output.loss.item() == pytest.approx(appearance + motion, abs=1e-5)
        assert float(output.metrics["motion"]) == pytest.approx(motion, abs=1e-5)
        output.loss.backward()
        assert all(p.grad is None for p in model.key.parameters())
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(model.queue.rows, stored), "not before the step is done"
        model.after_step(step, 3)
        for old, moved, current in zip(key.parameters(), model.key.parameters(), model.query.parameters()):
            torch.testing.assert_close(moved, 0.8 * old + 0.2 * current.detach(), atol=1e-6, rtol=1e-5)
        where = [(5 * step + i) % 12 for i in range(5)]
        torch.testing.assert_close(model.queue.rows[where].double(), keys, atol=1e-6, rtol=1e-5)
        stored = model.queue.rows.clone()


def test_accumulated_batches_all_enter_the_queue_and_looking_does_not():
    model = method()
    for seed in (0, 1):
        model(pair_batch(3, seed=seed)).loss.backward()
    with torch.no_grad():
        model(pair_batch(3, seed=2))  # statistics being recalibrated
    model.after_step(0, 1)
    assert int(model.queue.position) == 6
    model.after_step(1, 2)
    assert int(model.queue.position) == 6


def test_weights_of_the_losses_and_what_survives():
    clips = pair_batch(4)
    output = method(appearance=0.5, motion=2.0)(clips)
    assert output.loss.item() == pytest.approx(0.5 * float(output.metrics["appearance"]) + 2 * float(output.metrics["motion"]), rel=1e-5)
    model = method()
    assert model.encoder is model.query.encoder
    assert output.features.shape == (4, 6) and not output.features.requires_grad
    names = set(model.state_dict())
    assert {"queue.rows", "queue.position", "key.motion.weight"} <= names, "a resume needs them"
    with pytest.raises(ValueError, match="speed"):
        RSPNetConfig(speed=1)


def test_speeds_can_be_told_apart():
    """Moving bars: a step of gradient descent after the other must rank the speeds right on the batch it sees."""
    model, clips = method(), pair_batch(8)
    for b in range(8):
        for t in range(16):
            clips.frames[b, t] = 0
            clips.frames[b, t, :, (b + 2 * t) % 24] = 255
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    losses = []
    for step in range(40):
        output = model(clips)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(step, 40)
        losses.append(float(output.metrics["motion"]))
    assert losses[-1] < 0.7 * losses[0]
    assert float(output.metrics["speed_accuracy"]) > 0.7
