"""Slow second versions of cross-view masked modelling, in float64 and straight from state dicts."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.masking import generators_of, tube_mask
from suite3d.nn.positions import Positions, sincos_2d
from tests.core.nn.naive_vit import attend, block, double, embed, gelu, layer_norm, linear, patches, qkv

SIDE, HEADS = 16, 2
PATCH, GRID = (1, 4, 4), (1, 4, 4)


def shaken(model, amount: float = 0.1):
    """Every parameter moved a little, so that no zero bias or unit gain can hide a mistake."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += amount * torch.randn(parameter.shape, generator=generator)
    return model


def table(dim: int) -> Positions:
    return Positions("sincos_2d", GRID, dim)


def part(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def state_of(model) -> dict[str, Tensor]:
    return double(model.state_dict())


def slow_encode(state: dict[str, Tensor], picture: Tensor, places: list[int], *, depth: int = 1, add: Tensor | None = None) -> Tensor:
    """``(3, S, S)`` -> ``(1 + places, D)``: class token (where there is one), then the tokens of the places. ``add`` goes to every token."""
    x = embed(picture[None, :, None].double(), state)[0, places] + sincos_2d(GRID, len(state["norm.weight"])).double()[places]
    if "cls_token" in state:
        x = torch.cat([state["cls_token"][0], x])
    x = x[None] if add is None else x[None] + add
    for i in range(depth):
        x = block(x, state, f"blocks.{i}", HEADS)
    return layer_norm(x, state, "norm")[0]


def slow_mlp(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return linear(gelu(linear(x, state, f"{name}.fc1")), state, f"{name}.fc2")


def slow_cross(x: Tensor, context: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    k, v = linear(context, state, f"{name}.kv").chunk(2, dim=-1)
    return linear(attend(linear(x, state, f"{name}.q"), k, v, HEADS), state, f"{name}.proj")


def slow_self(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return linear(attend(*qkv(x, state, name), HEADS), state, f"{name}.proj")


def slow_two_view(
    state: dict[str, Tensor], seen: Tensor, places: list[int], targets: list[int], other: Tensor, *, croco: bool, depth: int = 1
) -> Tensor:
    """Predictions ``(M, outputs)`` of one picture."""
    positions = sincos_2d(GRID, state["mask_token"].shape[-1]).double()
    context = linear(other, state, "encoder_to_decoder")
    if croco:
        context = torch.cat([context[: len(context) - len(positions)], context[-len(positions) :] + positions])
    x = torch.cat([linear(seen, state, "encoder_to_decoder") + positions[places], state["mask_token"][0] + positions[targets]])
    for i in range(depth):
        name = f"blocks.{i}"
        if croco:
            x = x + slow_self(layer_norm(x, state, f"{name}.norm1"), state, f"{name}.attn")
            keys = layer_norm(context, state, f"{name}.norm_context")
            x = x + slow_cross(layer_norm(x, state, f"{name}.norm2"), keys, state, f"{name}.cross_attn")
            x = x + slow_mlp(layer_norm(x, state, f"{name}.norm3"), state, f"{name}.mlp")
        else:
            x = layer_norm(x + slow_cross(x, context, state, f"{name}.cross_attn"), state, f"{name}.norm1")
            x = layer_norm(x + slow_mlp(x, state, f"{name}.mlp"), state, f"{name}.norm2")
            x = layer_norm(x + slow_self(x, state, f"{name}.attn"), state, f"{name}.norm3")
    return linear(layer_norm(x[len(places) :], state, "norm"), state, "head")


def normalised(picture: Tensor, targets: list[int]) -> Tensor:
    """Pixels of some patches, each with its own mean and deviation taken out."""
    rows = patches(picture[None, :, None].double(), PATCH)[0, targets]
    centred = rows - rows.mean(1, keepdim=True)
    return centred / ((centred**2).sum(1, keepdim=True) / (rows.shape[1] - 1) + 1e-6).sqrt()


def slow_loss(model, data, *, masked: int, reference: int, ratio: float, croco: bool, depth: int = 1) -> float:
    """The loss, one picture after the other."""
    encoder, decoder = part(state_of(model), "encoder"), part(state_of(model), "decoder")
    mask = tube_mask(GRID, ratio, generators_of(data.view_seeds(masked), "mask"))
    errors = []
    for row, picture, other in zip(mask, data.pixels(masked), data.pixels(reference)):
        places, targets = (~row).nonzero()[:, 0].tolist(), row.nonzero()[:, 0].tolist()
        seen = slow_encode(encoder, picture, places)[-len(places) :]
        predicted = slow_two_view(decoder, seen, places, targets, slow_encode(encoder, other, list(range(16))), croco=croco, depth=depth)
        errors.append(((predicted - normalised(picture, targets)) ** 2).mean())
    return float(torch.stack(errors).mean())
