"""Decoders against slow second versions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.positions import Positions
from tests.core.nn.naive_vit import attend, block, double, flat_table, gelu, layer_norm, linear

GRID = (2, 2, 3)
VISIBLE, TARGETS = torch.tensor([[0, 3, 7], [1, 5, 11]]), torch.tensor([[1, 2, 11, 4], [0, 2, 3, 10]])


def make(cls: type, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    decoder = cls(36, 24, 2, 3, 10, Positions("sincos_flat", GRID, 24), generator=generator)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return decoder


def tokens() -> Tensor:
    return torch.randn(2, 3, 36, generator=torch.Generator().manual_seed(4))


def test_self_decoder_is_the_definition() -> None:
    decoder = make(SelfDecoder)
    state, table = double(decoder.state_dict()), flat_table(12, 24)
    seen = linear(tokens().double(), state, "encoder_to_decoder") + table[VISIBLE]
    x = torch.cat([seen, state["mask_token"] + table[TARGETS]], dim=1)
    for i in range(2):
        x = block(x, state, f"blocks.{i}", 3)
    expected = linear(layer_norm(x[:, -4:], state, "norm"), state, "head")
    torch.testing.assert_close(decoder(tokens(), VISIBLE, TARGETS).double(), expected, atol=1e-5, rtol=1e-5)


def test_cross_decoder_is_the_definition() -> None:
    decoder = make(CrossDecoder)
    state, table = double(decoder.state_dict()), flat_table(12, 24)
    context = linear(tokens().double(), state, "encoder_to_decoder")
    x = state["mask_token"] + table[TARGETS]
    for i in range(2):
        q = linear(layer_norm(x, state, f"blocks.{i}.norm1"), state, f"blocks.{i}.cross_attn.q")
        k, v = linear(context, state, f"blocks.{i}.cross_attn.kv").chunk(2, dim=-1)
        x = x + linear(attend(q, k, v, 3), state, f"blocks.{i}.cross_attn.proj")
        x = x + linear(gelu(linear(layer_norm(x, state, f"blocks.{i}.norm2"), state, f"blocks.{i}.mlp.fc1")), state, f"blocks.{i}.mlp.fc2")
    expected = linear(layer_norm(x, state, "norm"), state, "head")
    torch.testing.assert_close(decoder(tokens(), VISIBLE, TARGETS).double(), expected, atol=1e-5, rtol=1e-5)


def test_cross_decoded_targets_do_not_see_one_another() -> None:
    decoder = make(CrossDecoder)
    everything = decoder(tokens(), VISIBLE, TARGETS)
    for subset in ([0], [3, 1], [0, 1, 2, 3, 3]):
        torch.testing.assert_close(decoder(tokens(), VISIBLE, TARGETS[:, subset]), everything[:, subset])
    alone = make(SelfDecoder)
    assert not torch.allclose(alone(tokens(), VISIBLE, TARGETS[:, :1]), alone(tokens(), VISIBLE, TARGETS)[:, :1])


@pytest.mark.parametrize("cls", [SelfDecoder, CrossDecoder])
def test_order_of_the_visible_does_not_matter(cls: type) -> None:
    decoder, order = make(cls), [2, 0, 1]
    torch.testing.assert_close(decoder(tokens()[:, order], VISIBLE[:, order], TARGETS), decoder(tokens(), VISIBLE, TARGETS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cls", [SelfDecoder, CrossDecoder])
def test_nothing_stays_uninitialised(cls: type) -> None:
    with torch.device("meta"):
        decoder = cls(36, 24, 2, 3, 10, Positions("sincos_flat", GRID, 24))
    decoder.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*decoder.parameters(), *decoder.buffers()]:
            tensor.fill_(float("nan"))
    decoder.reset_parameters(torch.Generator().manual_seed(3))
    assert all(tensor.isfinite().all() for tensor in [*decoder.parameters(), *decoder.buffers()])
    assert decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.5)


def test_names_are_those_of_a_videomae_file() -> None:
    names = set(make(SelfDecoder).state_dict())
    assert len(names) == 2 * 13 + 4 + 2
    assert {"encoder_to_decoder.weight", "mask_token", "blocks.1.attn.v_bias", "norm.weight", "head.bias"} <= names
    assert "encoder_to_decoder.bias" not in names


@pytest.mark.parametrize("cls", [SelfDecoder, CrossDecoder])
def test_compiles_without_a_break(cls: type) -> None:
    torch.compiler.reset()
    decoder = make(cls)
    compiled = torch.compile(decoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(tokens(), VISIBLE, TARGETS), decoder(tokens(), VISIBLE, TARGETS))


def test_positions_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="24 channels like the decoder, got 36"):
        SelfDecoder(36, 24, 1, 3, 10, Positions("sincos_flat", GRID, 36))


def test_prediction_reads_every_visible_token() -> None:
    for cls in (SelfDecoder, CrossDecoder):
        decoder, x = make(cls), tokens().requires_grad_()
        decoder(x, VISIBLE, TARGETS)[0, 0].sum().backward()
        assert (x.grad[0].abs().amax(-1) > 0).all() and not x.grad[1].any() and math.isfinite(x.grad.sum())
