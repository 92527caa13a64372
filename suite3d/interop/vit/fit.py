"""Bring neutral weights to the shapes and names of a given vision transformer, or refuse where the function would become another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from suite3d.interop.load import LoadRefused
from suite3d.interop.vit.read import StoredViT
from suite3d.interop.vit.tables import DECODER_HEADS
from suite3d.nn.attention import Attention, CosineAttention
from suite3d.nn.decoder import SelfDecoder
from suite3d.nn.positions import Grid, resample_table, sincos, sincos_flat
from suite3d.nn.vit import VisionTransformer

Inflate = Literal["mean", "centre"]

_MAY_STAY_OUT = ("encoder.norm.", "encoder.cls_token", "encoder.register_tokens", "encoder.pos_embed", "encoder.mask_token")
_MAY_BE_NEW = ("encoder.norm.", "encoder.cls_token", "encoder.register_tokens")


@dataclass(kw_only=True)
class Fitted:
    """Weights under the names of a model with ``encoder.`` (and ``decoder.``) parts.

    Attributes:
        state: the tensors.
        changed: key -> what was done to it.
        positions: what happened to the positions, for the reader.
        source_grid: grid a fixed table has to be recomputed for, None = the model's own.
    """

    state: dict[str, Tensor]
    changed: dict[str, str] = field(default_factory=dict)
    positions: str = ""
    source_grid: Grid | None = None


def fit(stored: StoredViT, model: VisionTransformer, *, decoder: SelfDecoder | None = None, heads: int | None, inflate: Inflate) -> Fitted:
    """Weights of a file in the form that ``model`` takes.

    Args:
        stored: the file.
        model: the encoder they are for.
        decoder: the decoder, where the file has one for it.
        heads: attention heads of the file, where it is known better than by the table.
        inflate: how a one-frame patch embedding becomes one of several frames.

    Raises:
        LoadRefused: other heads, positions of another kind, biases or parts that cannot be dropped, or parts of the model the file lacks.
    """
    _check_heads(stored, model, heads)
    fitted = Fitted(state=dict(stored.state))
    _fit_patch_embed(fitted, model, inflate)
    _fit_positions(fitted, stored, model)
    cosine = any(isinstance(layer, CosineAttention) for layer in model.modules())
    _fit_biases(fitted, stored.path, "encoder", model, key_cancels=not stored.rope and not cosine)
    if decoder is not None:
        _check_decoder_heads(decoder)
        _fit_biases(fitted, stored.path, "decoder", decoder, key_cancels=True)
    _check_parts(fitted, model)
    return fitted


def _check_heads(stored: StoredViT, model: VisionTransformer, heads: int | None) -> None:
    expected = heads or stored.heads
    if expected is not None and expected != model.num_heads:
        raise LoadRefused(
            f"refused: {stored.path} has {expected} attention heads of {stored.dim // expected} channels, the model {model.num_heads}. "
            "Every shape would fit and every feature be wrong; set heads= of the encoder, or heads= here if the file is not the published network "
            "of its width"
        )


def _check_decoder_heads(decoder: SelfDecoder) -> None:
    width, attention = decoder.norm.normalized_shape[0], decoder.blocks[0].attn
    heads = DECODER_HEADS.get(width)
    if heads is not None and isinstance(attention, Attention) and attention.heads != heads:
        raise LoadRefused(f"refused: VideoMAE's decoder of {width} channels has {heads} attention heads, the model's {attention.heads}")


def _fit_patch_embed(fitted: Fitted, model: VisionTransformer, inflate: Inflate) -> None:
    key = "encoder.patch_embed.proj.weight"
    weight, frames = fitted.state[key], model.patch[0]
    fitted.state[key] = resize_tubelet(weight, frames, inflate=inflate)
    if weight.ndim == 4 and frames == 1:
        fitted.changed[key] = "4-D weight of images as one frame"
    elif weight.ndim == 4 or weight.shape[2] != frames:
        before = 1 if weight.ndim == 4 else weight.shape[2]
        how = "summed" if frames == 1 else "the middle frame" if inflate == "centre" else "the same in every frame"
        fitted.changed[key] = f"patches of {before} -> {frames} frames, {how}"


def resize_tubelet(weight: Tensor, frames: int, *, inflate: Inflate = "mean") -> Tensor:
    """Patch embedding ``(D, C, p, q)`` or ``(D, C, t, p, q)`` -> ``(D, C, frames, p, q)``.

    A clip that stands still gets the same tokens as before: frames are summed to one, which ``mean`` spreads evenly and ``centre`` puts in
    the middle frame alone.
    """
    weight = weight[:, :, None] if weight.ndim == 4 else weight
    if weight.shape[2] == frames:
        return weight
    one = weight.sum(dim=2, keepdim=True)
    if inflate == "mean":
        return (one / frames).repeat(1, 1, frames, 1, 1)
    out = one.new_zeros(*one.shape[:2], frames, *one.shape[3:])
    out[:, :, frames // 2] = one[:, :, 0]
    return out


def _fit_positions(fitted: Fitted, stored: StoredViT, model: VisionTransformer) -> None:
    ours, theirs, target = model.config.positions, stored.positions, model.grid
    table = fitted.state.pop("encoder.pos_embed.table", None)
    if ours == "learned" and not stored.rope and theirs != "none":
        if table is None:
            table = _fixed_table(theirs, stored.grid, stored.dim)
        fitted.state["encoder.pos_embed.table"] = resample_table(table.float(), stored.grid, target)
        fitted.positions = _said("learned, from the file's" if theirs in ("stored", "learned") else f"learned, from {theirs}", stored.grid, target)
        if stored.grid != target:
            fitted.changed["encoder.pos_embed.table"] = f"{_size(stored.grid)} -> {_size(target)} tokens, bicubic in space and linear in time"
        return
    if (
        table is not None
        and ours in ("sincos_flat", "sincos")
        and torch.allclose(table.float(), _fixed_table(ours, stored.grid, stored.dim), atol=1e-4)
    ):
        theirs = ours
    if ours != theirs:
        raise LoadRefused(
            f"refused: the weights of {stored.path} were trained with positions '{'learned' if theirs == 'stored' else theirs}', the model has "
            f"'{ours}'; set positions= of the encoder"
        )
    if model.pos_embed is None:
        fitted.positions = ours
        return
    fitted.source_grid = stored.grid
    fitted.positions = _said(f"{ours}, recomputed", stored.grid, target)


def _fixed_table(kind: str, grid: Grid, dim: int) -> Tensor:
    return sincos(grid, dim) if kind == "sincos" else sincos_flat(grid[0] * grid[1] * grid[2], dim)


def _size(grid: Grid) -> str:
    return "x".join(map(str, grid))


def _said(what: str, source: Grid, target: Grid) -> str:
    return f"{what} for {_size(source)} tokens" + ("" if source == target else f" and resampled to {_size(target)}")


def _fit_biases(fitted: Fitted, path: Path, prefix: str, module: nn.Module, *, key_cancels: bool) -> None:
    """The three biases of every attention layer of ``module`` in the form the layer has."""
    state = fitted.state
    for name, layer in module.named_modules(prefix=prefix):
        if isinstance(layer, Attention) and f"{name}.qkv.weight" in state:
            found = {part: state.pop(f"{name}.{part}_bias", None) for part in "qkv"}
            if layer.q_bias is None and layer.qkv.bias is None:
                kept = [part for part in "qkv" if _matters(found[part], part, key_cancels)]
                if kept:
                    raise LoadRefused(f"refused: '{name}' of {path} has biases of {', '.join(kept)} and the model none; set qkv_bias='full'")
                continue
            _fit_bias(fitted, path, name, layer, found, key_cancels=key_cancels)


def _fit_bias(fitted: Fitted, path: Path, name: str, layer: Attention, found: dict[str, Tensor | None], *, key_cancels: bool) -> None:
    query, key, value = found["q"], found["k"], found["v"]
    if query is None or value is None:
        raise LoadRefused(
            f"refused: {path} holds no biases of queries and values for '{name}': features without them are not those of the network. If it "
            "was trained without, set qkv_bias='none'; if a converter lost them, take the original file"
        )
    if layer.qkv.bias is not None:
        fitted.state[f"{name}.qkv.bias"] = torch.cat([query, torch.zeros_like(query) if key is None else key, value])
        return
    if _matters(key, "k", key_cancels):
        raise LoadRefused(
            f"refused: '{name}' of {path} has a key bias that is not 0, and with rotary positions or cosine attention it changes the result; "
            "set qkv_bias='full' of the encoder"
        )
    fitted.state[f"{name}.q_bias"], fitted.state[f"{name}.v_bias"] = query, value
    if key is not None and bool(key.any()):
        fitted.changed[f"{name}.q_bias"] = "the key bias left out: it adds the same to every score of a query, which the softmax cancels"


def _matters(bias: Tensor | None, part: str, key_cancels: bool) -> bool:
    return bias is not None and bool(bias.any()) and not (part == "k" and key_cancels)


def _check_parts(fitted: Fitted, model: VisionTransformer) -> None:
    wanted = {f"encoder.{key}" for key in model.state_dict()}
    extra = [key for key in fitted.state if key.startswith("encoder.") and key not in wanted and not key.startswith(_MAY_STAY_OUT)]
    if extra:
        raise LoadRefused(
            f"refused: the file's encoder has {len(extra)} tensors the model has no place for ({_some(extra)}), "
            "so the model would be another function; build the encoder with suite3d.interop.vit.vit_config_of(file)"
        )
    missing = [key for key in sorted(wanted) if key not in fitted.state and not key.startswith(_MAY_BE_NEW)]
    if missing:
        raise LoadRefused(
            f"refused: the file lacks {len(missing)} tensors of the model's encoder ({_some(missing)}). Is it another size? "
            "suite3d.interop.vit.vit_config_of(file) says what it is"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", +{len(names) - 3} more" if len(names) > 3 else "")
