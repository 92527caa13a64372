"""Files as the other projects write them, drawn at random, and what their networks compute from them, written from their definition.

Nothing here uses the package: names, biases, positions and the order of operations are said again, in plain torch on the state dict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.core.nn.naive_vit import attend, embed, flat_table, gelu, layer_norm, linear

State = dict[str, Tensor]
DIM, HEADS, DEPTH, HIDDEN = 48, 3, 2, 96
CLIP, PATCH, GRID = (4, 32, 32), (2, 8, 8), (2, 4, 4)


@dataclass(frozen=True)
class Foreign:
    """A file and its network: ``features(clip (B, 3, T, H, W)) -> tokens of the grid (B, N, DIM)`` in float64."""

    name: str
    state: State
    features: Callable[[State, Tensor], Tensor]
    clip: tuple[int, int, int] = CLIP


class Draw:
    """Random tensors, biases included."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 0.3) -> Tensor:
        return scale * torch.randn(*shape, generator=self.generator)

    def norm(self, name: str, dim: int = DIM) -> State:
        return {f"{name}.weight": 1 + self(dim), f"{name}.bias": self(dim)}

    def linear(self, name: str, cin: int, cout: int, bias: bool = True) -> State:
        return {f"{name}.weight": self(cout, cin, scale=cin**-0.5)} | ({f"{name}.bias": self(cout)} if bias else {})


def videomae_block(draw: Draw, name: str, dim: int = DIM, hidden: int = HIDDEN) -> State:
    return {
        **draw.norm(f"{name}.norm1", dim),
        f"{name}.attn.q_bias": draw(dim),
        f"{name}.attn.v_bias": draw(dim),
        **draw.linear(f"{name}.attn.qkv", dim, 3 * dim, bias=False),
        **draw.linear(f"{name}.attn.proj", dim, dim),
        **draw.norm(f"{name}.norm2", dim),
        **draw.linear(f"{name}.mlp.fc1", dim, hidden),
        **draw.linear(f"{name}.mlp.fc2", hidden, dim),
    }


def timm_block(draw: Draw, name: str, *, scales: bool = False) -> State:
    out = {
        **draw.norm(f"{name}.norm1"),
        **draw.linear(f"{name}.attn.qkv", DIM, 3 * DIM),
        **draw.linear(f"{name}.attn.proj", DIM, DIM),
        **draw.norm(f"{name}.norm2"),
        **draw.linear(f"{name}.mlp.fc1", DIM, HIDDEN),
        **draw.linear(f"{name}.mlp.fc2", HIDDEN, DIM),
    }
    return out | ({f"{name}.ls1.gamma": draw(DIM), f"{name}.ls2.gamma": draw(DIM)} if scales else {})


def patch_embedding(draw: Draw, *kernel: int) -> State:
    values = 3 * math.prod(kernel)
    return {"patch_embed.proj.weight": draw(DIM, 3, *kernel, scale=values**-0.5), "patch_embed.proj.bias": draw(DIM)}


def run_block(x: Tensor, state: Mapping[str, Tensor], name: str, *, heads: int = HEADS, turn: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor:
    """Any of the layouts: VideoMAE's q_bias and v_bias, MAE-ST's q, k, v, everyone else's qkv."""
    h, attn = layer_norm(x, state, f"{name}.norm1"), f"{name}.attn"
    if f"{attn}.q.weight" in state:
        q, k, v = (linear(h, state, f"{attn}.{part}") for part in "qkv")
    else:
        q, k, v = (h @ weight.T for weight in state[f"{attn}.qkv.weight"].chunk(3))
        if f"{attn}.q_bias" in state:
            q, v = q + state[f"{attn}.q_bias"], v + state[f"{attn}.v_bias"]
        else:
            q, k, v = (value + bias for value, bias in zip((q, k, v), state[f"{attn}.qkv.bias"].chunk(3), strict=True))
    out = linear(attend(turn(q), turn(k), v, heads), state, f"{attn}.proj")
    x = x + out * state.get(f"{name}.ls1.gamma", torch.ones(()))
    h = layer_norm(x, state, f"{name}.norm2")
    out = linear(gelu(linear(h, state, f"{name}.mlp.fc1")), state, f"{name}.mlp.fc2")
    return x + out * state.get(f"{name}.ls2.gamma", torch.ones(()))


def run_videomae(state: State, clip: Tensor, prefix: str = "encoder.") -> Tensor:
    x = embed(clip, state, f"{prefix}patch_embed.proj") + flat_table(math.prod(GRID), DIM)
    for i in range(DEPTH):
        x = run_block(x, state, f"{prefix}blocks.{i}")
    return layer_norm(x, state, f"{prefix}norm") if f"{prefix}norm.weight" in state else x


def videomae_pretrained(seed: int = 0) -> State:
    draw = Draw(seed)
    state = {f"encoder.{key}": value for key, value in patch_embedding(draw, *PATCH).items()}
    for i in range(DEPTH):
        state |= videomae_block(draw, f"encoder.blocks.{i}")
    state |= draw.norm("encoder.norm") | draw.linear("encoder_to_decoder", DIM, 24, bias=False) | {"mask_token": draw(1, 1, 24)}
    for i in range(2):
        state |= videomae_block(draw, f"decoder.blocks.{i}", 24, 48)
    return state | draw.norm("decoder.norm", 24) | draw.linear("decoder.head", 24, 384)


def videomae_finetuned(seed: int = 1) -> State:
    draw = Draw(seed)
    state = patch_embedding(draw, *PATCH)
    for i in range(DEPTH):
        state |= videomae_block(draw, f"blocks.{i}")
    return state | draw.norm("fc_norm") | draw.linear("head", DIM, 5)


def mae_st(seed: int = 2) -> State:
    draw = Draw(seed)
    state = patch_embedding(draw, *PATCH) | {"cls_token": draw(1, 1, DIM), "pos_embed_class": draw(1, 1, DIM)}
    state |= {"pos_embed_spatial": draw(1, 16, DIM), "pos_embed_temporal": draw(1, 2, DIM)}
    for i in range(DEPTH):
        block = timm_block(draw, f"blocks.{i}")
        weight, bias = block.pop(f"blocks.{i}.attn.qkv.weight"), block.pop(f"blocks.{i}.attn.qkv.bias")
        for part, w, b in zip("qkv", weight.chunk(3), bias.chunk(3), strict=True):
            block |= {f"blocks.{i}.attn.{part}.weight": w.clone(), f"blocks.{i}.attn.{part}.bias": b.clone()}
        state |= block
    state |= draw.norm("norm") | draw.linear("decoder_embed", DIM, 24) | {"mask_token": draw(1, 1, 24), "decoder_pos_embed_spatial": draw(1, 16, 24)}
    return state


def run_mae_st(state: State, clip: Tensor) -> Tensor:
    place = state["pos_embed_spatial"].repeat(1, 2, 1) + state["pos_embed_temporal"].repeat_interleave(16, dim=1)
    x = embed(clip, state) + place
    x = torch.cat([(state["cls_token"] + state["pos_embed_class"]).expand(len(x), -1, -1), x], dim=1)
    for i in range(DEPTH):
        x = run_block(x, state, f"blocks.{i}")
    return layer_norm(x, state, "norm")[:, 1:]


def axis_table(positions: list[int], channels: int) -> Tensor:
    rows = []
    for position in positions:
        angles = [position / 10000 ** (k / (channels // 2)) for k in range(channels // 2)]
        rows.append([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])
    return torch.tensor(rows, dtype=torch.float64)


def vjepa1(seed: int = 3) -> State:
    draw = Draw(seed)
    places = [(t, h, w) for t in range(2) for h in range(4) for w in range(4)]
    table = torch.cat([axis_table([place[axis] for place in places], 2 * math.ceil(DIM / 6)) for axis in range(3)], dim=1)[:, :DIM]
    state = patch_embedding(draw, *PATCH) | {"pos_embed": table[None].float()}
    for i in range(DEPTH):
        state |= timm_block(draw, f"blocks.{i}")
    return state | draw.norm("norm")


def vjepa2(seed: int = 4) -> State:
    state = vjepa1(seed)
    del state["pos_embed"]
    return state


def run_vjepa1(state: State, clip: Tensor) -> Tensor:
    x = embed(clip, state) + state["pos_embed"]
    for i in range(DEPTH):
        x = run_block(x, state, f"blocks.{i}")
    return layer_norm(x, state, "norm")


def run_vjepa2(state: State, clip: Tensor) -> Tensor:
    """Three-axis rotation with the released slip: the angles are tiled over the channels of an axis, the pairs are neighbours."""
    each = 2 * (DIM // HEADS // 3 // 2)

    def turn(x: Tensor) -> Tensor:
        out = x.clone()
        for n in range(math.prod(GRID)):
            place = (n // 16, n // 4 % 4, n % 4)
            for head in range(HEADS):
                for axis in range(3):
                    for c in range(each):
                        i = head * (DIM // HEADS) + axis * each + c
                        angle = place[axis] / 10000 ** ((c % (each // 2)) / (each // 2))
                        partner = -x[:, n, i + 1] if c % 2 == 0 else x[:, n, i - 1]
                        out[:, n, i] = x[:, n, i] * math.cos(angle) + partner * math.sin(angle)
        return out

    x = embed(clip, state)
    for i in range(DEPTH):
        x = run_block(x, state, f"blocks.{i}", turn=turn)
    return layer_norm(x, state, "norm")


def image_vit(seed: int = 5, *, scales: bool = False, registers: int = 0, mask_token: bool = False) -> State:
    draw = Draw(seed)
    state = patch_embedding(draw, 8, 8) | {"cls_token": draw(1, 1, DIM), "pos_embed": draw(1, 17, DIM)}
    if registers:
        state["register_tokens"] = draw(1, registers, DIM)
    if mask_token:
        state["mask_token"] = draw(1, DIM)
    for i in range(DEPTH):
        state |= timm_block(draw, f"blocks.{i}", scales=scales)
    return state | draw.norm("norm")


def run_image(state: State, clip: Tensor) -> Tensor:
    x = torch.cat([state["cls_token"].expand(len(clip), -1, -1), embed(clip, state)], dim=1) + state["pos_embed"]
    if "register_tokens" in state:
        x = torch.cat([x[:, :1], state["register_tokens"].expand(len(x), -1, -1), x[:, 1:]], dim=1)
    for i in range(DEPTH):
        x = run_block(x, state, f"blocks.{i}")
    return layer_norm(x, state, "norm")[:, -16:]


def timm_vit(seed: int = 6) -> State:
    return image_vit(seed) | Draw(seed + 100).linear("head", DIM, 5)


def transformers_v4(seed: int = 0) -> State:
    """VideoMAEForPreTraining as on the hub: separate weights, ``q_bias`` and ``v_bias``, no key bias."""
    out: State = {}
    inside = {".norm1.": ".layernorm_before.", ".norm2.": ".layernorm_after.", ".attn.proj.": ".attention.output.dense."}
    inside |= {".mlp.fc1.": ".intermediate.dense.", ".mlp.fc2.": ".output.dense.", ".attn.q_bias": ".attention.attention.q_bias"}
    inside |= {".attn.v_bias": ".attention.attention.v_bias"}
    for key, value in videomae_pretrained(seed).items():
        name = key.replace("encoder.patch_embed.proj", "videomae.embeddings.patch_embeddings.projection").replace(
            "encoder.norm", "videomae.layernorm"
        )
        name = name.replace("encoder.blocks", "videomae.encoder.layer").replace("decoder.blocks", "decoder.decoder_layers")
        if name.endswith(".attn.qkv.weight"):
            for part, weight in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = weight.clone()
            continue
        for ours, theirs in inside.items():
            name = name.replace(ours, theirs)
        out[name] = value
    return out


def transformers_v5(seed: int = 0) -> State:
    """The module names of v5: query and value are Linear layers with a bias."""
    return {
        key.replace("attention.q_bias", "attention.query.bias").replace("attention.v_bias", "attention.value.bias"): v
        for key, v in transformers_v4(seed).items()
    }


FOREIGN = {
    item.name: item
    for item in (
        Foreign("videomae", videomae_pretrained(), run_videomae),
        Foreign("videomae_finetuned", videomae_finetuned(), lambda state, clip: run_videomae(state, clip, "")),
        Foreign("transformers_v4", transformers_v4(), lambda state, clip: run_videomae(double(videomae_pretrained()), clip)),
        Foreign("transformers_v5", transformers_v5(), lambda state, clip: run_videomae(double(videomae_pretrained()), clip)),
        Foreign("mae_st", mae_st(), run_mae_st),
        Foreign("vjepa1", vjepa1(), run_vjepa1),
        Foreign("vjepa2", vjepa2(), run_vjepa2),
        Foreign("dinov2", image_vit(7, scales=True, mask_token=True), run_image, clip=(1, 32, 32)),
        Foreign("dinov2_registers", image_vit(8, scales=True, registers=3, mask_token=True), run_image, clip=(1, 32, 32)),
        Foreign("timm", timm_vit(), run_image, clip=(1, 32, 32)),
    )
}


def double(state: Mapping[str, Tensor]) -> State:
    return {key: value.double() for key, value in state.items()}
