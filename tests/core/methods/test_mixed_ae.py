"""MixedAE: mixing, homologous attention and both terms of the loss, each as defined."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.image.recipes.encoder import ImageDecoderConfig
from suite3d.methods.mixed_ae import MixedAE, MixedAEConfig, homologous_contrast
from suite3d.nn.attention import Attention, CosineAttention
from tests.core.methods.joint import batch, gradient_norm, trained, vit
from tests.core.methods.naive_masked import decode, part, pixel_targets, plane, rows, shaken
from tests.core.nn.naive_vit import embed, gelu, heads_of, layer_norm, linear, qkv


def mixed_ae(*, encoder: dict[str, object] | None = None, **config) -> MixedAE:
    torch.manual_seed(1)
    backbone = vit(**(encoder or {}))
    decoder = ImageDecoderConfig(dim=16, depth=1, heads=2).build(backbone)
    return MixedAE(backbone, decoder, MixedAEConfig(**({"hidden": 12, "dim": 6} | config)))


def homologous_block(x: torch.Tensor, state: dict[str, torch.Tensor], name: str, heads: int, keys: int) -> torch.Tensor:
    """One query after the other; token 0 is the class token."""
    q, k, v = qkv(layer_norm(x, state, f"{name}.norm1"), state, f"{name}.attn")
    parts = []
    for qh, kh, vh in zip(heads_of(q, heads), heads_of(k, heads), heads_of(v, heads), strict=True):
        out = torch.zeros_like(qh)
        for b in range(len(x)):
            for i in range(x.shape[1]):
                score = kh[b] @ qh[b, i] / math.sqrt(qh.shape[-1])
                order = sorted(range(1, x.shape[1]), key=lambda j: -float(score[j]))
                allowed = list(range(x.shape[1])) if i == 0 else [0, *order[:keys]]
                weight = score[allowed].exp()
                out[b, i] = (weight / weight.sum()) @ vh[b, allowed]
        parts.append(out)
    x = x + linear(torch.cat(parts, -1), state, f"{name}.attn.proj")
    return x + linear(gelu(linear(layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1")), state, f"{name}.mlp.fc2")


def naive_contrast(z: torch.Tensor, owner: torch.Tensor, temperature: float) -> float:
    z, total = z.double() / z.double().norm(dim=-1, keepdim=True), 0.0
    for m in range(len(z)):
        for i in range(z.shape[1]):
            others = [a for a in range(z.shape[1]) if a != i]
            partition = sum(math.exp(float(z[m, i] @ z[m, a]) / temperature) for a in others)
            positives = [a for a in others if owner[m, a] == owner[m, i]]
            total -= sum(float(z[m, i] @ z[m, p]) / temperature - math.log(partition) for p in positives) / len(positives)
    return total / owner.numel()


@pytest.mark.parametrize("group", [2, 4])
def test_loss_is_its_definition(group: int) -> None:
    method, data = shaken(mixed_ae(encoder={"depth": 2}, group=group, contrast=0.3)), batch(4)
    state, pixels = method.state_dict(), data.pixels()
    encoder, owner = part(state, "encoder"), method.owners(data.view_seeds(), data.device)
    own_tokens = embed(pixels.double()[:, :, None], encoder) + plane(4, 16)
    mixtures = torch.zeros(4 // group, 16, 16, dtype=torch.float64)
    for m in range(4 // group):
        for token in range(16):
            place = int(owner[m, token])
            mixtures[m, token] = own_tokens[m * group + place, token] + state["segments"].double()[place]
    x = torch.cat((encoder["cls_token"].expand(len(mixtures), -1, -1), mixtures), dim=1)
    for i in range(2):
        x = homologous_block(x, encoder, f"blocks.{i}", 2, 16 // group)
    tokens = layer_norm(x, encoder, "norm")[:, 1:]
    errors = []
    for sample in range(4):
        visible = (owner[sample // group] == sample % group).nonzero()[:, 0]
        predicted = decode(rows(tokens[sample // group][None], visible[None]), visible[None], part(state, "decoder"), 2, 16)
        hidden = [token for token in range(16) if token not in visible.tolist()]
        errors += ((predicted - pixel_targets(pixels[sample : sample + 1], 4)) ** 2).mean(-1)[0, hidden].tolist()
    head = part(state, "projector")
    z = linear(layer_norm(linear(tokens, head, "0"), head, "1", 1e-5).clamp(min=0), head, "3")
    contrast = naive_contrast(z, owner, 0.25)
    output = method(data)
    assert output.metrics["rebuilt"].item() == pytest.approx(sum(errors) / len(errors), abs=1e-5)
    assert output.metrics["contrast"].item() == pytest.approx(contrast, abs=1e-5)
    assert output.loss.item() == pytest.approx(sum(errors) / len(errors) + 0.3 * contrast, abs=2e-5)


def test_mixtures_take_equal_parts_of_all_pictures() -> None:
    method, pixels = mixed_ae(group=4), batch(8).pixels()
    owner = method.owners(list(range(8)), torch.device("cpu"))
    mixed = method.mix(pixels, owner)
    assert owner.shape == (2, 16) and not torch.equal(owner[0], owner[1])
    assert all((owner == place).sum(1).tolist() == [4, 4] for place in range(4))
    for m in range(2):
        for token in range(16):
            here = (slice(None), slice(token // 4 * 4, token // 4 * 4 + 4), slice(token % 4 * 4, token % 4 * 4 + 4))
            assert torch.equal(mixed[m][here], pixels[4 * m + int(owner[m, token])][here])


@pytest.mark.parametrize("kind", [Attention, CosineAttention])
def test_strongest_keys_are_those_with_the_largest_weights(kind: type[Attention]) -> None:
    torch.manual_seed(0)
    attention, x = kind(12, 3), torch.randn(2, 7, 12)
    mask = attention.strongest(x, 2, prefix=1)
    q, k, _ = attention.split(x)
    one_hot = torch.eye(7).expand(2, 3, 7, 7)
    weights = attention.attend(q, k, one_hot)  # values that are one-hot give the weights themselves
    chosen = weights[:, :, 1:, 1:].topk(2, dim=-1).indices.sort(-1).values
    assert torch.equal(mask[:, :, 1:, 1:].nonzero()[:, 3].view(2, 3, 6, 2), chosen)
    assert mask[:, :, 0].all() and mask[:, :, :, 0].all()
    torch.testing.assert_close(attention(x, mask=attention.strongest(x, 7)), attention(x))


def test_contrast_prefers_tokens_that_know_their_picture() -> None:
    owner = torch.tensor([[0, 1, 1, 0, 0, 1]])
    apart = torch.nn.functional.one_hot(owner, 4).float()
    assert homologous_contrast(apart, owner, temperature=0.25) < homologous_contrast(torch.ones(1, 6, 4), owner, temperature=0.25)


def test_checkpointing_changes_nothing() -> None:
    plain, saving = mixed_ae(), mixed_ae(encoder={"checkpoint": True})
    data = batch(4)
    assert torch.equal(plain(data).loss, saving(data).loss)
    assert gradient_norm(plain, data) == pytest.approx(gradient_norm(saving, data), rel=1e-6)


def test_it_learns_reaches_the_encoder_and_repeats_itself() -> None:
    method, data = mixed_ae(), batch()
    assert gradient_norm(method, data) > 0 and method.segments.grad is not None
    assert torch.equal(method(data).loss, mixed_ae()(data).loss)
    assert not torch.equal(method(data).loss, method(batch(start=2)).loss)
    losses = trained(method, data, steps=30)
    assert losses[-1] < 0.8 * losses[0]
    assert set(method(data).visuals()) == {"reconstruction", "mixture"}


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least two pictures"):
        MixedAEConfig(group=1)
    with pytest.raises(ValueError, match="temperature"):
        MixedAEConfig(temperature=0.0)
    with pytest.raises(ValueError, match="share 16 patches equally"):
        mixed_ae(group=3)
    with pytest.raises(ValueError, match="at least two each"):
        mixed_ae(group=16)
    with pytest.raises(ValueError, match="groups of 2, got a batch of 3"):
        mixed_ae()(batch(3))
