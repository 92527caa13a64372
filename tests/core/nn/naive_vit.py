"""Slow second versions of the transformers, in float64 and straight from a state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

State = Mapping[str, Tensor]


def layer_norm(x: Tensor, state: State, name: str, eps: float = 1e-6) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: State, name: str) -> Tensor:
    out = torch.einsum("...i,oi->...o", x, state[f"{name}.weight"])
    return out + state[f"{name}.bias"] if f"{name}.bias" in state else out


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def heads_of(x: Tensor, heads: int) -> list[Tensor]:
    return list(x.split(x.shape[-1] // heads, dim=-1))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """One head after the other, softmax written out."""
    out = []
    for qh, kh, vh in zip(heads_of(q, heads), heads_of(k, heads), heads_of(v, heads), strict=True):
        weight = (qh @ kh.transpose(-1, -2) / math.sqrt(qh.shape[-1])).exp()
        out.append(weight / weight.sum(-1, keepdim=True) @ vh)
    return torch.cat(out, dim=-1)


def qkv(x: Tensor, state: State, name: str) -> tuple[Tensor, Tensor, Tensor]:
    wq, wk, wv = state[f"{name}.qkv.weight"].chunk(3)
    if f"{name}.q_bias" in state:
        bq, bk, bv = state[f"{name}.q_bias"], torch.zeros(len(wk)), state[f"{name}.v_bias"]
    elif f"{name}.qkv.bias" in state:
        bq, bk, bv = state[f"{name}.qkv.bias"].chunk(3)
    else:
        bq = bk = bv = torch.zeros(len(wk))
    return x @ wq.T + bq, x @ wk.T + bk, x @ wv.T + bv


def block(x: Tensor, state: State, name: str, heads: int, eps: float = 1e-6, turn=lambda t: t) -> Tensor:
    q, k, v = qkv(layer_norm(x, state, f"{name}.norm1", eps), state, f"{name}.attn")
    out = linear(attend(turn(q), turn(k), v, heads), state, f"{name}.attn.proj")
    x = x + out * state.get(f"{name}.ls1.gamma", torch.ones(()))
    h = layer_norm(x, state, f"{name}.norm2", eps)
    out = linear(gelu(linear(h, state, f"{name}.mlp.fc1")), state, f"{name}.mlp.fc2")
    return x + out * state.get(f"{name}.ls2.gamma", torch.ones(()))


def flat_table(n: int, dim: int) -> Tensor:
    table = np.zeros((n, dim))
    for i in range(n):
        for j in range(dim):
            angle = i / 10000 ** (2 * (j // 2) / dim)
            table[i, j] = math.sin(angle) if j % 2 == 0 else math.cos(angle)
    return torch.from_numpy(table)


def patches(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(B, C, T, H, W) -> (B, N, C t p q), cut out one at a time."""
    t, p, q = patch
    out = []
    for i in range(0, x.shape[2], t):
        for j in range(0, x.shape[3], p):
            for k in range(0, x.shape[4], q):
                out.append(x[:, :, i : i + t, j : j + p, k : k + q].flatten(1))
    return torch.stack(out, dim=1)


def embed(x: Tensor, state: State, name: str = "patch_embed.proj") -> Tensor:
    """All patches through the weight, whatever its tubelet."""
    weight = state[f"{name}.weight"]
    if weight.ndim == 4:
        weight = weight[:, :, None]
    size = (weight.shape[2], weight.shape[3], weight.shape[4])
    return patches(x, size) @ weight.flatten(1).T + state[f"{name}.bias"]


def double(state: State) -> dict[str, Tensor]:
    return {key: value.double() for key, value in state.items()}
