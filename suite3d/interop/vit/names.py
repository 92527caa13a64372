"""One set of names for the tensors of every vision transformer file.

Neutral names are those of a masked autoencoder here: ``encoder.*`` (a :class:`suite3d.nn.vit.VisionTransformer`), ``decoder.*`` (a
:class:`suite3d.nn.decoder.SelfDecoder`), ``fc_norm.*`` and ``head.*`` of a classifier. Attention is always ``attn.qkv.weight`` with the
biases apart, ``attn.q_bias``, ``attn.k_bias``, ``attn.v_bias``, each only where the file has it. A position table stays as the file has
it, ``encoder.pos_embed`` or ``encoder.pos_embed_{spatial,temporal,class}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from suite3d.interop.vit.tables import Source

_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
_OTHERS = ("head.", "fc_norm.", "decoder_", "mask_token", "predictor", "dino_head.", "ibot_head.")
"""Not of the encoder, in files whose encoder has no prefix. The decoders of MAE and MAE-ST have a class token and a biased bridge: no decoder
here is that function, so they stay under their names and out."""

_TRANSFORMERS = [
    (r"^(videomae|vit|dinov2|dinov2_with_registers|vjepa2)\.", ""),
    (r"^(encoder\.)?embeddings\.patch_embeddings\.(projection|proj)\.", "encoder.patch_embed.proj."),
    (r"^(encoder\.)?embeddings\.position_embeddings$", "encoder.pos_embed"),
    (r"^embeddings\.(cls_token|register_tokens|mask_token)$", r"encoder.\1"),
    (r"^(encoder\.)?layers?\.(\d+)\.", r"encoder.blocks.\2."),
    (r"^decoder\.decoder_layers\.(\d+)\.", r"decoder.blocks.\1."),
    (r"^(encoder\.)?layernorm\.", "encoder.norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention(\.attention)?\.(query|q_proj)\.", ".attn.q."),
    (r"\.attention(\.attention)?\.(key|k_proj)\.", ".attn.k."),
    (r"\.attention(\.attention)?\.(value|v_proj)\.", ".attn.v."),
    (r"\.attention\.attention\.(q|v)_bias$", r".attn.\1_bias"),
    (r"\.attention\.(output\.dense|o_proj|proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^classifier\.", "head."),
]
_PLAIN = [(r"\.gamma_([12])$", r".ls\1.gamma"), (r"^encoder\.reg_token$", "encoder.register_tokens")]
_BRIDGE = [(r"^(encoder_to_decoder\.weight|mask_token)$", r"decoder.\1")]


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off what wrappers put before every name (``module.backbone.``); heads beside a ``backbone.`` keep their names."""
    state = dict(state)
    while True:
        prefix = next((p for p in _PREFIXES if state and all(key.startswith(p) for key in state)), None)
        if prefix is None and any(key.startswith("backbone.") for key in state):
            return {key.removeprefix("backbone."): value for key, value in state.items()}
        if prefix is None:
            return state
        state = {key.removeprefix(prefix): value for key, value in state.items()}


def detect(state: Mapping[str, Tensor]) -> Source:
    """Which project's names these are.

    Raises:
        ValueError: none that is known.
    """
    text = "\n".join(state)
    if re.search(r"\.attention\.(attention\.)?(query|q_proj)\.", text):
        return "transformers"
    if "pos_embed_spatial" in text or ".attn.q.weight" in text:
        return "mae_st"
    if "decoder.encoder_to_decoder" in text or "pos_embed.table" in text:
        return "suite3d"
    if "attn.q_bias" in text:
        return "videomae"
    weight = next((value for key, value in state.items() if key.endswith("patch_embed.proj.weight")), None)
    if weight is not None and ".attn.qkv.weight" in text:
        if weight.ndim == 5 and "cls_token" not in state:
            return "vjepa"
        return "dinov2" if "blocks.0.ls1.gamma" in state and ("mask_token" in state or "register_tokens" in state) else "timm"
    raise ValueError(
        "no known vision transformer: expected the names of VideoMAE, transformers, MAE-ST, V-JEPA, DINOv2, timm or suite3d, "
        f"got {sorted(state)[:6]} ..."
    )


def to_neutral(state: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
    """Tensors of a file (prefixes stripped) under neutral names, queries, keys and values in one weight.

    Raises:
        ValueError: two tensors of one name, or a projection without its partners.
    """
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = _neutral_name(key, source, whole=any(other.startswith("encoder.") for other in state))
        if name in out:
            raise ValueError(f"two tensors of the file stand for '{name}', one of them '{key}'")
        out[name] = tensor
    return _fuse(out)


def _neutral_name(key: str, source: Source, *, whole: bool) -> str:
    if source == "transformers":
        return _rename(key, _TRANSFORMERS + _BRIDGE)
    if whole:
        return _rename(key, _PLAIN + _BRIDGE)
    return key if key.startswith(_OTHERS) else _rename(f"encoder.{key}", _PLAIN)


def _rename(key: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _fuse(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``attn.{q,k,v}.{weight,bias}`` and ``attn.qkv.bias`` -> ``attn.qkv.weight`` and ``attn.{q,k,v}_bias``."""
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if match := re.match(r"(.*\.attn)\.([qkv])\.(weight|bias)$", key):
            name, part, kind = match.groups()
            if kind == "bias":
                out[f"{name}.{part}_bias"] = tensor
            elif part == "q":
                missing = [other for other in "kv" if f"{name}.{other}.weight" not in state]
                if missing:
                    raise ValueError(f"'{name}' has a query projection, but none of {missing}")
                out[f"{name}.qkv.weight"] = torch.cat([state[f"{name}.{p}.weight"] for p in "qkv"])
        elif key.endswith(".attn.qkv.bias"):
            for part, bias in zip("qkv", tensor.chunk(3), strict=True):
                out[key.replace(".qkv.bias", f".{part}_bias")] = bias
        else:
            out[key] = tensor
    return out
