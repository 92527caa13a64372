"""The vision transformer against a slow second version, and what must not change its result."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from suite3d.nn.attention import CosineAttention
from suite3d.nn.patch_embed import gather_patches, patchify
from suite3d.nn.vit import Block, DropPath, SwiGLU, VisionTransformer, ViTConfig
from tests.core.nn.naive_vit import block, double, embed, flat_table, gelu, layer_norm, linear, patches

KINDS = ["sincos_flat", "sincos", "learned", "rope", "rope_tiled", "none"]
TINY = ViTConfig(dim=36, depth=2, heads=3, clip=(4, 16, 24), patch=(2, 8, 8))


def make(config: ViTConfig = TINY, seed: int = 0) -> VisionTransformer:
    """A transformer all of whose weights matter (biases and scales are not at their start)."""
    generator = torch.Generator().manual_seed(seed)
    model = VisionTransformer(config, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def clip(config: ViTConfig = TINY, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, config.channels, *config.clip, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("qkv_bias", ["qv", "full", "none"])
def test_forward_is_the_definition(qkv_bias: str) -> None:
    model, x = make(replace(TINY, qkv_bias=qkv_bias)), clip()
    state = double(model.state_dict())
    tokens = embed(x.double(), state) + flat_table(12, 36)
    for i in range(2):
        tokens = block(tokens, state, f"blocks.{i}", 3)
    expected = layer_norm(tokens, state, "norm")
    torch.testing.assert_close(model(x).double(), expected, atol=1e-5, rtol=1e-5)
    visible = torch.tensor([[3, 0, 7], [11, 5, 6]])
    seen = (embed(x.double(), state) + flat_table(12, 36))[torch.arange(2)[:, None], visible]
    for i in range(2):
        seen = block(seen, state, f"blocks.{i}", 3)
    torch.testing.assert_close(model(x, visible).double(), layer_norm(seen, state, "norm"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_pixels_are_never_read(kind: str) -> None:
    model, x = make(replace(TINY, positions=kind)), clip()
    visible = torch.tensor([[0, 3, 7], [1, 5, 11]])
    hidden = torch.ones(2, 12, dtype=torch.bool).scatter(1, visible, False)
    spoiled = x.clone()
    frames = hidden.reshape(2, 1, 2, 2, 3).repeat_interleave(2, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
    spoiled[frames.expand_as(x)] = float("nan")
    assert torch.equal(model(x, visible), model(spoiled, visible))


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_the_visible_is_the_order_of_the_output(kind: str) -> None:
    model, x = make(replace(TINY, positions=kind)), clip()
    everything = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    torch.testing.assert_close(model(x, everything), model(x)[torch.arange(2)[:, None], everything], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_places_are_told_apart(kind: str) -> None:
    model = make(replace(TINY, positions=kind))
    x = torch.ones(1, 3, 4, 16, 24)
    if "rope" in kind:  # rotations do not tell equal tokens apart; a different one among them does
        x[:, :, :2, :8, :8] = 2
    tokens = model(x)[0]
    distance = torch.cdist(tokens, tokens) + 100 * torch.eye(12)
    assert distance.min() > 1e-4


def test_patches_are_cut_in_the_order_of_a_convolution() -> None:
    model, x = make(), clip()
    torch.testing.assert_close(patchify(x, (2, 8, 8)), patches(x, (2, 8, 8)), atol=0, rtol=0)
    index = torch.tensor([[5, 5, 0], [11, 2, 7]])
    assert torch.equal(gather_patches(x, index, (2, 8, 8)), patches(x, (2, 8, 8))[torch.arange(2)[:, None], index])
    convolved = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.patch_embed(x), convolved, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch", "grid"),
    [
        ((1, 32, 32), (1, 16, 16), (1, 2, 2)),
        ((3, 16, 48), (1, 16, 16), (3, 1, 3)),
        ((8, 28, 14), (4, 14, 14), (2, 2, 1)),
        ((2, 8, 12), (2, 4, 6), (1, 2, 2)),
    ],
)
def test_any_size(size: tuple[int, int, int], patch: tuple[int, int, int], grid: tuple[int, int, int]) -> None:
    config = replace(TINY, clip=size, patch=patch)
    model = make(config)
    assert model.grid == grid and model(clip(config)).shape == (2, math.prod(grid), 36)


@pytest.mark.parametrize(("size", "name"), [((5, 16, 24), "frames=5"), ((4, 20, 24), "height=20"), ((4, 16, 4), "width=4")])
def test_sizes_that_do_not_divide_are_refused(size: tuple[int, int, int], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not a whole number of patches"):
        VisionTransformer(replace(TINY, clip=size))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 16, 24\), got \(3, 4, 24, 16\)"):
        make()(torch.zeros(1, 3, 4, 24, 16))
    with pytest.raises(ValueError, match="multiple of heads=5"):
        VisionTransformer(replace(TINY, heads=5))
    with pytest.raises(ValueError, match="position_grid expected None"):
        VisionTransformer(replace(TINY, positions="rope", position_grid=(1, 2, 3)))
    with pytest.raises(ValueError, match="three numbers"):
        VisionTransformer(replace(TINY, clip=(4, 16)))  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ["dot", "cosine"])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_uninitialised(kind: str, mlp: str, attention: str) -> None:
    config = replace(
        TINY, positions=kind, mlp=mlp, attention=attention, class_token=True, registers=2, layer_scale=0.1, qkv_bias="full" if mlp == "gelu" else "qv"
    )
    with torch.device("meta"):
        model = VisionTransformer(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(float("nan"))
    model.reset_parameters(torch.Generator().manual_seed(3))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.isfinite().all(), name
    other = VisionTransformer(config, generator=torch.Generator().manual_seed(3))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_initial_weights_follow_the_paper() -> None:
    model = VisionTransformer(ViTConfig(dim=96, depth=1, heads=4, clip=(2, 16, 16), patch=(2, 8, 8)), generator=torch.Generator().manual_seed(0))
    qkv = model.blocks[0].attn.qkv.weight
    bound = math.sqrt(6 / (4 * 96))
    assert qkv.abs().max() <= bound and qkv.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert model.patch_embed.proj.weight.abs().max() <= 1 / math.sqrt(3 * 2 * 64)
    assert not model.blocks[0].attn.q_bias.any() and not model.blocks[0].mlp.fc1.bias.any()


@pytest.mark.parametrize("kind", ["sincos_flat", "learned", "rope"])
def test_compiles_without_a_break(kind: str) -> None:
    torch.compiler.reset()
    model, x = make(replace(TINY, positions=kind, class_token=kind == "rope")), clip()
    visible = torch.tensor([[0, 3, 7], [1, 5, 11]])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager" if kind == "learned" else "eager")
    torch.testing.assert_close(compiled(x, visible), model(x, visible))
    compiled(x, visible).square().mean().backward()
    gradient = model.patch_embed.proj.weight.grad.clone()
    model.zero_grad()
    model(x, visible).square().mean().backward()
    torch.testing.assert_close(gradient, model.patch_embed.proj.weight.grad, atol=1e-5, rtol=1e-4)


def test_recomputed_blocks_give_the_same_gradients() -> None:
    x, gradients = clip(), []
    for recompute in (False, True):
        model = make(replace(TINY, checkpoint=recompute)).train()
        model(x).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_state_dict_holds_no_position_table() -> None:
    names = set(make().state_dict())
    assert not any("pos" in name or "rope" in name for name in names)
    assert {"patch_embed.proj.weight", "blocks.1.attn.q_bias", "blocks.0.attn.qkv.weight", "norm.bias"} <= names
    assert len(names) == 2 * 13 + 4


def test_class_and_register_tokens_stand_before_the_grid() -> None:
    config = replace(TINY, class_token=True, registers=3, positions="learned", qkv_bias="full", layer_scale=0.5)
    model, x = make(config), clip()
    prefix, tokens = model.encode(x)
    assert prefix.shape == (2, 4, 36) and tokens.shape == (2, 12, 36) and torch.equal(tokens, model(x))
    state = double(model.state_dict())
    grid = embed(x.double(), state) + state["pos_embed.table"]
    sequence = torch.cat([state["cls_token"].expand(2, -1, -1), state["register_tokens"].expand(2, -1, -1), grid], dim=1)
    for i in range(2):
        sequence = block(sequence, state, f"blocks.{i}", 3)
    torch.testing.assert_close(torch.cat([prefix, tokens], dim=1).double(), layer_norm(sequence, state, "norm"), atol=1e-5, rtol=1e-5)


def test_rotated_attention_is_the_definition() -> None:
    config = replace(TINY, dim=24, heads=2, depth=1, positions="rope", qkv_bias="full", final_norm=False)
    model, x = make(config), clip()
    state = double(model.state_dict())
    places = [(t, h, w) for t in range(2) for h in range(2) for w in range(3)]

    def turn(values: torch.Tensor) -> torch.Tensor:
        out = values.clone()  # (B, N, 24): heads of 12, 4 channels an axis in two pairs
        for n, place in enumerate(places):
            for head in range(2):
                for axis in range(3):
                    for k in range(2):
                        i = head * 12 + axis * 4 + 2 * k
                        angle = place[axis] / 10000 ** (k / 2)
                        pair = torch.complex(values[:, n, i], values[:, n, i + 1]) * complex(math.cos(angle), math.sin(angle))
                        out[:, n, i], out[:, n, i + 1] = pair.real, pair.imag
        return out

    expected = block(embed(x.double(), state), state, "blocks.0", 2, turn=turn)
    torch.testing.assert_close(model(x).double(), expected, atol=1e-5, rtol=1e-5)


def test_cosine_attention_is_the_definition() -> None:
    layer = CosineAttention(12, 3)
    with torch.no_grad():
        layer.q_bias.normal_(), layer.v_bias.normal_()
        layer.scale.copy_(torch.tensor([0.5, 2.0, 9.0])[:, None, None])
    x = torch.randn(2, 5, 12)
    wq, wk, wv = layer.qkv.weight.chunk(3)
    out = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        q, k, v = (x @ wq.T + layer.q_bias)[..., part], (x @ wk.T)[..., part], (x @ wv.T + layer.v_bias)[..., part]
        cosine = torch.stack([torch.stack([nn.functional.cosine_similarity(q[b, i], k[b], dim=-1) for i in range(5)]) for b in range(2)])
        out.append((cosine * min(math.exp([0.5, 2.0, 9.0][h]), 100)).softmax(-1) @ v)
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(out, dim=-1)), atol=1e-5, rtol=1e-4)


def test_swiglu_is_the_definition() -> None:
    layer = SwiGLU(4, 6)
    x = torch.randn(3, 4)
    gate, value = layer.w12.weight[:6] @ x[0] + layer.w12.bias[:6], layer.w12.weight[6:] @ x[0] + layer.w12.bias[6:]
    torch.testing.assert_close(layer(x)[0], layer.w3.weight @ (gate * gate.sigmoid() * value) + layer.w3.bias)
    assert ViTConfig(dim=1536, mlp="swiglu").hidden == 4096  # DINOv2's ViT-g


def test_drop_path_keeps_the_mean_and_only_acts_in_training() -> None:
    layer, x = DropPath(0.25), torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    out = layer(x)
    assert out[:, 0, 0].unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out == out[:, :1, :1]).all() and out.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(layer.eval()(x), x)
    rates = [
        b.drop_path.probability if isinstance(b.drop_path, DropPath) else 0 for b in VisionTransformer(replace(TINY, depth=3, drop_path=0.2)).blocks
    ]
    assert rates == pytest.approx([0, 0.1, 0.2])
    with pytest.raises(ValueError, match="probability"):
        Block(12, 3, drop_path=1.0)


def test_block_takes_built_parts() -> None:
    x = torch.randn(2, 5, 12)
    attention, mlp = CosineAttention(12, 3), SwiGLU(12, 8)
    built = Block(12, 3, attention=attention, mlp=mlp)
    middle = x + attention(built.norm1(x))
    torch.testing.assert_close(built(x), middle + mlp(built.norm2(middle)))


def test_description_rebuilds_the_encoder() -> None:
    model = make(replace(TINY, positions="rope"))
    again = VisionTransformer(ViTConfig(**model.describe()["config"]))
    assert asdict(again.config) == asdict(model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(clip()), model(clip()))


def test_gelu_is_the_exact_one() -> None:
    model = make()
    mlp = model.blocks[0].mlp
    x, state = torch.randn(3, 36), model.state_dict()
    torch.testing.assert_close(mlp(x), linear(gelu(linear(x, state, "blocks.0.mlp.fc1")), state, "blocks.0.mlp.fc2"))


@pytest.mark.parametrize("kind", ["sincos_flat", "rope"])
@pytest.mark.parametrize("attention", ["dot", "cosine"])
def test_bfloat16_autocast_stays_near(kind: str, attention: str) -> None:
    model, x = make(replace(TINY, positions=kind, attention=attention, class_token=True)), clip()
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(x)
        loss = model(x, torch.tensor([[0, 3], [1, 5]])).float().square().mean()
    assert (rough.float() - exact).abs().mean() < 0.03 * exact.abs().mean()
    loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["sincos_flat", "rope"])
def test_padding_is_not_attended_to(kind: str) -> None:
    model, x = make(replace(TINY, positions=kind, class_token=True)), clip()
    packed = torch.tensor([[0, 3, 7, 9], [1, 5, 0, 0]])
    valid = torch.tensor([[True, True, True, True], [True, True, False, False]])
    out = model(x, packed, valid)
    torch.testing.assert_close(out[:1], model(x[:1], packed[:1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[1:, :2], model(x[1:], packed[1:, :2]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(out[1:, :2], model(x[1:], packed[1:])[:, :2], atol=1e-3)
