"""VideoMAE and VideoMAE V2 as their papers and files define them: all tokens embedded, boolean indexing, no shared code with the package.

Functions of a state dict in the published names. The clip is given in [0, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1, 1)


def table(n, dim):
    """The original's position table, entry by entry."""
    rows = [[position / 10000 ** (2 * (j // 2) / dim) for j in range(dim)] for position in range(n)]
    return torch.tensor([[math.cos(a) if j % 2 else math.sin(a) for j, a in enumerate(row)] for row in rows], dtype=torch.float64)


def block(x, state, name, heads):
    def linear(part, value):
        return value @ state[f"{name}.{part}.weight"].T + state[f"{name}.{part}.bias"]

    def norm(part, value):
        mean, var = value.mean(-1, keepdim=True), value.var(-1, unbiased=False, keepdim=True)
        return (value - mean) / torch.sqrt(var + 1e-6) * state[f"{name}.{part}.weight"] + state[f"{name}.{part}.bias"]

    b, n, d = x.shape
    bias = torch.cat([state[f"{name}.attn.q_bias"], torch.zeros(d, dtype=x.dtype), state[f"{name}.attn.v_bias"]])
    qkv = norm("norm1", x) @ state[f"{name}.attn.qkv.weight"].T + bias
    q, k, v = (part.reshape(b, n, heads, d // heads).transpose(1, 2) for part in qkv.split(d, dim=-1))
    weights = torch.softmax(q @ k.transpose(2, 3) * (d // heads) ** -0.5, dim=-1)
    x = x + linear("attn.proj", (weights @ v).transpose(1, 2).reshape(b, n, d))
    h = linear("mlp.fc1", norm("norm2", x))
    return x + linear("mlp.fc2", 0.5 * h * (1 + torch.erf(h / math.sqrt(2))))


def targets(clip, patch):
    """(B, N, t*p*p*3): per tube and channel normalised, the channel fastest."""
    t, p, _ = patch
    b, c, frames, height, width = clip.shape
    x = clip.reshape(b, c, frames // t, t, height // p, p, width // p, p)
    x = x.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(b, -1, t * p * p, c)  # b (t h w) (p0 p1 p2) c
    x = (x - x.mean(2, keepdim=True)) / (x.var(2, unbiased=True, keepdim=True).sqrt() + 1e-6)
    return x.reshape(*x.shape[:2], -1)


def loss(state, clip, mask, *, patch, heads, dec_heads, dropped=None):
    """Loss for ``mask (B, N)``, True = the encoder does not see it. With ``dropped (B, N)``, True = not decoded, V2's loss."""
    x = (clip - MEAN.to(clip)) / STD.to(clip)
    x = F.conv3d(x, state["encoder.patch_embed.proj.weight"], state["encoder.patch_embed.proj.bias"], stride=patch).flatten(2).transpose(1, 2)
    b, n, d = x.shape
    x = x + table(n, d).to(x)
    x = x[~mask].reshape(b, -1, d)
    depth = len({name.split(".")[2] for name in state if name.startswith("encoder.blocks.")})
    for i in range(depth):
        x = block(x, state, f"encoder.blocks.{i}", heads)
    x = F.layer_norm(x, (d,), state["encoder.norm.weight"], state["encoder.norm.bias"], 1e-6)
    x = x @ state["encoder_to_decoder.weight"].T
    dim = x.shape[-1]
    positions = table(n, dim).to(x).expand(b, -1, -1)
    decoded = mask if dropped is None else ~dropped
    seen, unseen = positions[~mask].reshape(b, -1, dim), positions[decoded].reshape(b, -1, dim)
    x = torch.cat([x + seen, state["mask_token"] + unseen], dim=1)
    depth = len({name.split(".")[2] for name in state if name.startswith("decoder.blocks.")})
    for i in range(depth):
        x = block(x, state, f"decoder.blocks.{i}", dec_heads)
    x = F.layer_norm(x[:, -unseen.shape[1] :], (dim,), state["decoder.norm.weight"], state["decoder.norm.bias"], 1e-6)
    predicted = x @ state["decoder.head.weight"].T + state["decoder.head.bias"]
    label = targets(clip, patch)[decoded].reshape(b, -1, predicted.shape[-1])
    if dropped is None:
        return ((predicted - label) ** 2).mean()
    counts = mask[decoded].reshape(b, -1).to(clip)
    return (((predicted - label) ** 2).mean(-1) * counts).sum() / counts.sum()
