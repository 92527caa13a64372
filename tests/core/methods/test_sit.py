"""SiT: GMML's error and the contrast with the teacher, each as defined; the teacher follows."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from suite3d.image.data.source import ViewGroup
from suite3d.methods.corruption import corrupt
from suite3d.methods.sit import SiT, SiTConfig
from tests.core.methods.joint import VIEW, batch, gradient_norm, trained, vit
from tests.core.methods.naive_masked import encode, part, pixel_targets, shaken
from tests.core.nn.naive_vit import gelu, linear


def sit(*, encoder: dict[str, object] | None = None, **config) -> SiT:
    torch.manual_seed(1)
    return SiT(vit(**(encoder or {})), SiTConfig(**({"pixel_hidden": 24, "hidden": 20, "dim": 8} | config)))


def project(x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Two hidden layers with batch statistics, then a linear one; of unit length."""
    for i in (0, 3):
        x = linear(x, state, str(i))
        x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() * state[f"{i + 1}.weight"] + state[f"{i + 1}.bias"]
        x = x.clamp(min=0)
    x = linear(x, state, "6")
    return x / x.norm(dim=1, keepdim=True)


def cross_entropy(q: torch.Tensor, k: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for i in range(len(q)):
        scores = [math.exp(float(q[i] @ k[j]) / temperature) for j in range(len(k))]
        total -= math.log(scores[i] / sum(scores)) / len(q)
    return total


def test_loss_is_its_definition() -> None:
    method, data = shaken(sit(reconstruction=3.0)), batch(5)
    state = method.state_dict()
    pixels = [data.pixels(0), data.pixels(1)]
    corrupted, masks = zip(*(corrupt(pixels[v], data.view_seeds(v), method.encoder, method.config.corruption) for v in (0, 1)), strict=True)
    prefix, tokens = encode(torch.cat(corrupted), part(state, "student.encoder"), 2)
    clean, _ = encode(torch.cat(pixels), part(state, "teacher.encoder"), 2)
    head = part(state, "head")
    predicted = linear(gelu(linear(gelu(linear(tokens, head, "0")), head, "2")), head, "4")
    error = (predicted - pixel_targets(torch.cat(pixels), 4, normalised=False)).abs().mean(-1)
    q = project(prefix[:, 0], part(state, "student.projector"))
    k = project(clean[:, 0], part(state, "teacher.projector"))
    repair = float(error[torch.cat(masks)].mean())
    contrast = 2 * 0.2 * (cross_entropy(q[:5], k[5:], 0.2) + cross_entropy(q[5:], k[:5], 0.2))
    output = method(data)
    assert output.metrics["repair"].item() == pytest.approx(repair, abs=1e-5)
    assert output.metrics["contrast"].item() == pytest.approx(contrast, abs=1e-5)
    assert output.loss.item() == pytest.approx(3 * repair + contrast, abs=1e-5)


def test_teacher_follows_along_a_half_cosine() -> None:
    method, data = sit(momentum=(0.9, 1.0)), batch()
    trained(method, data, steps=2)
    before, student = copy.deepcopy(method.teacher), dict(method.student.named_parameters())
    for step, m in ((0, 0.9), (5, 0.95), (10, 1.0)):
        method.teacher.load_state_dict(before.state_dict())
        method.after_step(step, 11)
        for name, parameter in method.teacher.named_parameters():
            torch.testing.assert_close(parameter, m * before.get_parameter(name) + (1 - m) * student[name])
    method(data).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert any(name.startswith("teacher.") for name in method.state_dict())


def test_the_teacher_skips_no_branch_and_sees_clean_pictures() -> None:
    method, data = sit(encoder={"depth": 3, "drop_path": 0.9}), batch()
    pixels, (corrupted, _) = method.corrupted(data)
    assert torch.equal(method.teacher(pixels)[1], method.teacher(pixels)[1])
    assert not torch.equal(method.student(pixels)[1], method.student(pixels)[1])
    assert torch.equal(pixels[:6], data.pixels(0)) and not torch.equal(corrupted, pixels)


def test_it_learns_reaches_the_encoder_and_repeats_itself() -> None:
    method, data = sit(), batch()
    assert gradient_norm(method, data) > 0
    assert torch.equal(method(data).loss, sit()(data).loss)
    losses = trained(method, data, steps=30, lr=0.005)
    assert losses[-1] < 0.8 * losses[0]
    assert method(data).visuals()["reconstruction"].ndim == 3


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="class token"):
        sit(encoder={"class_token": False})
    with pytest.raises(ValueError, match="temperature"):
        SiTConfig(temperature=0.0)
    with pytest.raises(ValueError, match="momentum"):
        SiTConfig(momentum=(0.9, 1.1))
    with pytest.raises(ValueError, match="at least 2 views"):
        sit()(batch(4, [ViewGroup(view=VIEW)]))
    with pytest.raises(ValueError, match="at least two"):
        sit()(batch(1))
