"""The latent predictor against a slow version that keeps context and mask tokens in lists."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.masking import padded_indices
from suite3d.nn.predictor import LatentPredictor, initialise_rescaled
from suite3d.nn.vit import VisionTransformer, ViTConfig
from tests.core.nn.naive_vit import block, double, layer_norm, linear

GRID = (2, 3, 3)


def slow_turn(places, heads):
    """Rotary positions as complex numbers, token by token, pair by pair: t, then h, then w of every head."""

    def turn(x):
        out = x.clone()
        width = x.shape[-1] // heads
        pairs = width // 6
        for n, place in enumerate(places):
            axes = (place // (GRID[1] * GRID[2]), place // GRID[2] % GRID[1], place % GRID[2])
            for head in range(heads):
                for axis, index in enumerate(axes):
                    for k in range(pairs):
                        first = head * width + axis * 2 * pairs + 2 * k
                        angle = index * 10000 ** (-k / pairs)
                        a, b = x[:, n, first], x[:, n, first + 1]
                        out[:, n, first] = a * math.cos(angle) - b * math.sin(angle)
                        out[:, n, first + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    return turn


def slow_predict(state, tokens, places, kind, heads, depth):
    """One sample: ``tokens (V, D)`` at ``places`` -> {hidden place: prediction}; context first, hidden tokens after, as in the paper."""
    hidden = [n for n in range(math.prod(GRID)) if n not in places]
    context = linear(tokens, state, "embed")
    x = torch.cat([context, state["mask_tokens"][kind].expand(len(hidden), -1)])[None]
    for i in range(depth):
        x = block(x, state, f"blocks.{i}", heads, turn=slow_turn([*places, *hidden], heads))
    out = linear(layer_norm(x, state, "norm"), state, "proj")[0]
    return dict(zip(hidden, out[len(places) :]))


def shaken(module):
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module


@pytest.mark.parametrize("kind", [0, 1])
def test_predictor_is_the_definition_whatever_the_context(kind):
    predictor = shaken(LatentPredictor(10, 7, GRID, dim=24, depth=2, heads=2))
    state = double(predictor.state_dict())
    visible = torch.rand(3, 18, generator=torch.Generator().manual_seed(1)) < 0.4
    index, valid = padded_indices(visible, 12)
    tokens = torch.randn(3, 12, 10)
    out = predictor(tokens, index, valid, mask=kind)
    garbage = torch.where(valid[..., None], tokens, 1e6)
    assert torch.equal(predictor(garbage, index, valid, mask=kind), out), "padding must not matter"
    for b in range(3):
        places = visible[b].nonzero()[:, 0].tolist()
        expected = slow_predict(state, tokens[b, : len(places)].double(), places, kind, 2, 2)
        for place, value in expected.items():
            torch.testing.assert_close(out[b, place].double(), value, atol=1e-5, rtol=1e-5)


def test_rescaled_weights():
    vit = VisionTransformer(ViTConfig(dim=192, depth=8, heads=4, clip=(2, 16, 16), patch=(2, 8, 8)))
    initialise_rescaled(vit, vit.blocks, torch.Generator().manual_seed(0))
    for i, layer in enumerate(vit.blocks, start=1):
        assert layer.attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
        for weight in (layer.attn.proj.weight, layer.mlp.fc2.weight):
            assert weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * i), rel=0.1)
