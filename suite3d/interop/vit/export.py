"""Write a vision transformer in the layout of another project."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save
from torch import Tensor, nn

from suite3d.engine.files import write_atomically, write_json
from suite3d.interop.vit.fit import resize_tubelet
from suite3d.interop.vit.names import to_neutral
from suite3d.interop.vit.read import RECORD, read_vit
from suite3d.interop.vit.tables import DECODER_HEADS, IMAGENET_MEAN, IMAGENET_STD
from suite3d.nn.attention import Attention
from suite3d.nn.decoder import SelfDecoder
from suite3d.nn.positions import resample_table, sincos, sincos_flat
from suite3d.nn.vit import VisionTransformer, ViTConfig

Layout = Literal["videomae", "videomae_finetuned", "transformers", "transformers_v5", "timm"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_TO_TRANSFORMERS = (
    ("encoder.patch_embed.proj.", "videomae.embeddings.patch_embeddings.projection."),
    ("encoder.blocks.", "videomae.encoder.layer."),
    ("encoder.norm.", "videomae.layernorm."),
    ("decoder.blocks.", "decoder.decoder_layers."),
    ("decoder.encoder_to_decoder.", "encoder_to_decoder."),
    ("decoder.mask_token", "mask_token"),
    ("head.", "classifier."),
)
_INSIDE_A_LAYER = (
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)


def export_vit(
    weights: Path | str | nn.Module,
    out: Path | str,
    *,
    layout: Layout,
    config: ViTConfig | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> str:
    """Write ``out`` in another project's layout and say in one line what it holds and how it is read there.

    Args:
        weights: run directory, ``encoder.safetensors`` or checkpoint of a run, or a module: a vision transformer, or one that has it as
            ``.encoder`` (and VideoMAE's ``.decoder``, or ``.fc_norm`` and ``.head``). Of a run directory, its newest whole checkpoint.
        out: file (``.pth`` and ``.pt`` for torch's format, ``.safetensors``); for transformers a folder.
        layout: ``videomae`` (pre-training file), ``videomae_finetuned``, ``transformers`` (as on the hub and read by v4 and v5),
            ``transformers_v5`` (names of the modules of v5), ``timm`` (image transformer of the frames' sum).
        config: sizes of the encoder, where ``weights`` does not say them.
        mean, std: the pixel normalisation the network was trained with, for the record and transformers' preprocessor.

    Raises:
        ValueError: an unknown layout, or a network the other project cannot express; nothing is written.
        FileNotFoundError: no such weights.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout expected one of {', '.join(LAYOUTS)}, got '{layout}'")
    state, config, origin = _neutral(weights, config)
    heads = _decoder_heads(weights, state) if layout.startswith("transformers") else None
    record: dict[str, Any] = {
        "config": asdict(config),
        "mean": list(mean),
        "std": list(std),
        "licence": origin.get("licence", "that of your data and of suite3d's weights"),
    }
    if layout == "timm":
        return _write_timm(state, config, Path(out), record)
    _check_videomae(state, config, layout)
    if layout in ("transformers", "transformers_v5"):
        return _write_transformers(state, config, Path(out), record, decoder_heads=heads, v5=layout == "transformers_v5")
    finetuned = layout == "videomae_finetuned"
    tensors = {_videomae_name(key, finetuned=finetuned): value for key, value in _with_qv_biases(state, config).items() if _belongs(key, finetuned)}
    _write(Path(out), tensors, record, wrapper="model")
    what = "fine-tuned" if finetuned else "pre-training"
    return f"{out}: VideoMAE {what} checkpoint, {len(tensors)} tensors, {config.heads} heads, positions {config.positions} (not stored, as there)"


def _neutral(weights: Path | str | nn.Module, config: ViTConfig | None) -> tuple[dict[str, Tensor], ViTConfig, dict[str, Any]]:
    """Tensors under neutral names, sizes, and where they are from."""
    if isinstance(weights, nn.Module):
        encoder = weights if isinstance(weights, VisionTransformer) else getattr(weights, "encoder", None)
        if not isinstance(encoder, VisionTransformer):
            raise ValueError(f"export_vit expected a VisionTransformer or a module with one as .encoder, got {type(weights).__name__}")
        parts = {"encoder": encoder} if weights is encoder else dict(weights.named_children())
        tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        return to_neutral(tensors, "suite3d"), encoder.config, encoder.origin or {}
    path = Path(weights)
    folder = path / "checkpoints"
    newest = sorted(folder.glob("step_*.pt"))[-1:] if folder.is_dir() else []
    stored = read_vit(newest[0] if newest else path)
    if config is None and "config" not in stored.record:
        raise ValueError(f"{stored.path} does not say the sizes of its encoder: pass config=")
    return stored.state, config or ViTConfig(**stored.record["config"]), stored.record.get("origin", {})


def _decoder_heads(weights: Path | str | nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Attention heads of the decoder, None without one. Raises ValueError where neither a module nor the table of published widths says."""
    if "decoder.mask_token" not in state:
        return None
    decoder = getattr(weights, "decoder", None)
    if isinstance(decoder, SelfDecoder) and isinstance(decoder.blocks[0].attn, Attention):
        return decoder.blocks[0].attn.heads
    width = state["decoder.mask_token"].shape[-1]
    if width not in DECODER_HEADS:
        raise ValueError(f"a decoder of {width} channels is none of VideoMAE's, so its attention heads are not known: export the module itself")
    return DECODER_HEADS[width]


def _belongs(key: str, finetuned: bool) -> bool:
    return key.startswith(("encoder.", "fc_norm.", "head.") if finetuned else ("encoder.", "decoder."))


def _videomae_name(key: str, *, finetuned: bool) -> str:
    if finetuned:
        return key.removeprefix("encoder.")
    return key.removeprefix("decoder.") if key in ("decoder.encoder_to_decoder.weight", "decoder.mask_token") else key


def _check_videomae(state: Mapping[str, Tensor], config: ViTConfig, layout: str) -> None:
    """Raises ValueError where VideoMAE's code would build another function from these weights."""
    if config.positions != "sincos_flat" or config.position_grid not in (None, config.grid, list(config.grid)):
        how = f"'{config.positions}'" + ("" if config.position_grid is None else f" resampled from {config.position_grid}")
        raise ValueError(f"layout {layout} computes its positions as 'sincos_flat' on the clip's own grid, the encoder has {how}: not exported")
    if config.class_token or config.registers or config.layer_scale or config.mlp != "gelu":
        raise ValueError(f"layout {layout} has no class or register tokens, layer scales or gated feed-forward parts: not exported")
    if layout.startswith("transformers") and config.attention == "cosine":
        raise ValueError("transformers' VideoMAE has no cosine attention: not exported")
    if layout.startswith("transformers") and config.patch[1] != config.patch[2]:
        raise ValueError(f"transformers' VideoMAE expected square patches, the encoder has {config.patch}: not exported")
    if config.attention == "cosine":
        for key, value in state.items():
            if key.endswith(".k_bias") and bool(value.any()):
                raise ValueError(f"'{key}' is not 0 and cannot be left out with cosine attention: not exported")


def _with_qv_biases(state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """Query and value biases everywhere, zero where the network has none; key biases cancel in the softmax and go."""
    out = {key: value for key, value in state.items() if not key.endswith(".k_bias")}
    for key, value in state.items():
        if key.endswith(".attn.qkv.weight"):
            for part in "qv":
                out.setdefault(key.replace("qkv.weight", f"{part}_bias"), value.new_zeros(value.shape[1]))
    return out


def _transformers_name(key: str, *, v5: bool) -> str:
    for ours, theirs in _TO_TRANSFORMERS:
        if key.startswith(ours):
            key = theirs + key.removeprefix(ours)
            break
    for ours, theirs in _INSIDE_A_LAYER:
        key = key.replace(ours, theirs) if ".layer." in key or "decoder_layers." in key else key
    for part, long in (("q", "query"), ("v", "value")):
        key = key.replace(f".attn.{part}_bias", f".attention.attention.{long}.bias" if v5 else f".attention.attention.{part}_bias")
    return key


def _write_transformers(
    state: Mapping[str, Tensor], config: ViTConfig, out: Path, record: dict[str, Any], *, decoder_heads: int | None, v5: bool
) -> str:
    tensors: dict[str, Tensor] = {}
    for key, value in _with_qv_biases(state, config).items():
        if key.endswith(".attn.qkv.weight"):
            stem = _transformers_name(key.removesuffix("attn.qkv.weight"), v5=v5)
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                tensors[f"{stem}attention.attention.{name}.weight"] = part
        else:
            tensors[_transformers_name(key, v5=v5)] = value
    classes = state["head.weight"].shape[0] if "head.weight" in state else 0
    architecture = "VideoMAEForVideoClassification" if classes else "VideoMAEForPreTraining" if "decoder.mask_token" in state else "VideoMAEModel"
    if architecture == "VideoMAEModel":
        tensors = {key.removeprefix("videomae."): value for key, value in tensors.items()}
    settings = _transformers_config(state, config, architecture, decoder_heads) | ({"num_labels": classes} if classes else {})
    settings[RECORD] = {"licence": record["licence"]}
    images: dict[str, Any] = {"image_processor_type": "VideoMAEImageProcessor", "image_mean": record["mean"], "image_std": record["std"]}
    images |= {"size": {"shortest_edge": config.clip[1]}, "crop_size": {"height": config.clip[1], "width": config.clip[2]}}
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "model.safetensors", tensors, record, wrapper=None)
    for name, content in (("config.json", settings), ("preprocessor_config.json", images)):
        write_json(out / name, content)
    note = "; its decoder's last LayerNorm has eps 1e-5 there" if architecture == "VideoMAEForPreTraining" else ""
    note = "; fc_norm has eps 1e-5 there" if classes else note
    return f"{out}: transformers {architecture}, {len(tensors)} tensors, layer_norm_eps {config.eps:g}, {config.heads} heads{note}"


def _transformers_config(state: Mapping[str, Tensor], config: ViTConfig, architecture: str, decoder_heads: int | None) -> dict[str, Any]:
    square = config.clip[1] == config.clip[2]
    settings: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": "videomae",
        "image_size": config.clip[1] if square else [config.clip[1], config.clip[2]],
        "patch_size": config.patch[1],
        "num_channels": config.channels,
        "num_frames": config.clip[0],
        "tubelet_size": config.patch[0],
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "layer_norm_eps": config.eps,
        "qkv_bias": True,
        "use_mean_pooling": "encoder.norm.weight" not in state,
    }
    if "decoder.mask_token" in state:
        width = state["decoder.mask_token"].shape[-1]
        blocks = {key.split(".")[2] for key in state if key.startswith("decoder.blocks.")}
        settings |= {
            "decoder_hidden_size": width,
            "decoder_num_hidden_layers": len(blocks),
            "decoder_num_attention_heads": decoder_heads,
            "decoder_intermediate_size": state["decoder.blocks.0.mlp.fc1.weight"].shape[0],
        }
    return settings


def _write_timm(state: Mapping[str, Tensor], config: ViTConfig, out: Path, record: dict[str, Any]) -> str:
    """An image transformer that gives the tokens of one frame shown for the whole patch."""
    if config.positions in ("rope", "rope_tiled", "none") or config.attention == "cosine" or config.mlp != "gelu":
        raise ValueError(
            f"timm's plain vision transformer has neither positions '{config.positions}' nor cosine attention or gated parts: not exported"
        )
    grid = config.grid
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith("encoder.") and not key.endswith(("q_bias", "k_bias", "v_bias")):
            tensors[key.removeprefix("encoder.").replace("register_tokens", "reg_token")] = value
        if key.startswith("encoder.") and key.endswith(".attn.qkv.weight"):
            zero = value.new_zeros(value.shape[1])
            biases = [state.get(key.replace("qkv.weight", f"{part}_bias"), zero) for part in "qkv"]
            tensors[key.removeprefix("encoder.").replace("qkv.weight", "qkv.bias")] = torch.cat(biases)
    tensors["patch_embed.proj.weight"] = resize_tubelet(tensors["patch_embed.proj.weight"], 1)[:, :, 0]
    table = tensors.pop("pos_embed.table", None)
    if table is None:
        source = config.position_grid or grid
        source = (source[0], source[1], source[2])
        fixed = sincos_flat(source[0] * source[1] * source[2], config.dim) if config.positions == "sincos_flat" else sincos(source, config.dim)
        table = resample_table(fixed, source, grid)
    table = table.unflatten(0, grid).mean(0).flatten(0, 1)  # (H * W, dim)
    if config.class_token:
        table = torch.cat([table.new_zeros(1, config.dim), table])
    tensors["pos_embed"] = table[None]
    image = replace(config, clip=(1, *config.clip[1:]), patch=(1, *config.patch[1:]), positions="learned", position_grid=None, qkv_bias="full")
    _write(out, tensors, record | {"config": asdict(image)}, wrapper=None)
    side = config.patch[1]
    how = f"img_size=({config.clip[1]}, {config.clip[2]}), patch_size={side}, embed_dim={config.dim}, depth={config.depth}, num_heads={config.heads}"
    pool = "" if config.class_token else ", class_token=False, global_pool='avg', fc_norm=False"
    note = (
        ""
        if grid[0] == 1
        else f"; frames of a patch summed, positions averaged over {grid[0]} slots, so its features are near those of a still clip, not equal"
    )
    return f"{out}: timm image transformer, {len(tensors)} tensors; timm.models.VisionTransformer({how}, num_classes=0{pool}){note}"


def _write(out: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any], *, wrapper: str | None) -> None:
    """Tensors and the record, under a temporary name first; the format is that of the suffix."""
    own = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    broken = [key for key, value in own.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(f"expected finite weights, got NaN or Inf in {broken[:4]}: nothing was written")
    if out.suffix == ".safetensors":
        payload = save(own, metadata={"format": "pt", RECORD: json.dumps(record)})
        write_atomically(out, lambda temporary: temporary.write_bytes(payload))
    elif out.suffix in (".pth", ".pt", ".bin"):
        plain = json.loads(json.dumps(record))
        content = {wrapper: own, RECORD: plain} if wrapper else {**own}
        write_atomically(out, lambda temporary: torch.save(content, temporary))
    else:
        raise ValueError(f"{out}: expected a file ending in .safetensors, .pth, .pt or .bin")
