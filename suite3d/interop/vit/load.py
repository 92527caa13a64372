"""Weights of other projects into a vision transformer, with every tensor accounted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from suite3d.interop.load import LoadReport, load_weights
from suite3d.interop.vit.fit import Inflate, fit
from suite3d.interop.vit.read import StoredViT, read_vit
from suite3d.interop.vit.tables import ORIGINS
from suite3d.nn.decoder import SelfDecoder
from suite3d.nn.positions import PositionKind
from suite3d.nn.vit import VisionTransformer, ViTConfig


def load_vit(
    module: nn.Module,
    path: Path | str,
    *,
    minimum: float = 0.9,
    clip: tuple[int, int, int] | None = None,
    heads: int | None = None,
    inflate: Inflate = "mean",
    echo: Callable[[str], None] | None = print,
) -> LoadReport:
    """Load a file into a vision transformer, or into a module that has one as ``.encoder``; print and return what came in.

    Reads files of VideoMAE and VideoMAE V2 (pretrained and fine-tuned, also from DeepSpeed), transformers (VideoMAE of v4 and v5, V-JEPA 2,
    DINOv2, ViT), MAE-ST, V-JEPA 1 and 2 (the target encoder), DINOv2, timm and MAE, and our own runs.

    Args:
        module: changed in place, only after every check has passed. Where it has a ``decoder`` and the file has VideoMAE's, that is loaded too.
        path: file, transformers folder or run directory.
        minimum: smallest accepted share of ``module``'s parameters. Whatever it is, a file that lacks a tensor of the encoder's blocks, or has
            one that the encoder has no place for, is refused.
        clip: frames, height, width the weights were trained on, see :func:`suite3d.interop.vit.read.read_vit`.
        heads: attention heads of the file, if it is not the published network of its width.
        inflate: image weights for patches of several frames: ``mean`` (the same in every frame) or ``centre``.
        echo: where the report goes; None keeps it quiet.

    Raises:
        LoadRefused: the model would compute something else than the file's network, or too little fits.
        ValueError: unreadable or of no known project.
        FileNotFoundError: no such file.
    """
    encoder = module if isinstance(module, VisionTransformer) else getattr(module, "encoder", None)
    if not isinstance(encoder, VisionTransformer):
        raise ValueError(f"load_vit expected a VisionTransformer or a module with one as .encoder, got {type(module).__name__}")
    stored = read_vit(path, clip=clip)
    decoder = getattr(module, "decoder", None) if "decoder.encoder_to_decoder.weight" in stored.state else None
    decoder = decoder if isinstance(decoder, SelfDecoder) else None
    fitted = fit(stored, encoder, decoder=decoder, heads=heads, inflate=inflate)
    prefix = "encoder." if module is encoder else ""
    report = load_weights(
        module if module is encoder else nn.ModuleDict(dict(module.named_children())),  # names by part, whatever the module publishes
        {key.removeprefix(prefix): tensor for key, tensor in fitted.state.items()},
        minimum=minimum,
        source=f"{stored.path} ({_said(stored, encoder)}; positions {fitted.positions})",
        echo=None,
    )
    if fitted.source_grid is not None and encoder.pos_embed is not None:
        for table in (encoder.pos_embed, None if decoder is None else decoder.pos_embed):
            if table is not None and table.kind != "learned":
                table.resample_from(fitted.source_grid)
        encoder.config = replace(encoder.config, position_grid=None if fitted.source_grid == encoder.grid else fitted.source_grid)
    encoder.origin = {"file": stored.path.name, "layout": stored.source, "licence": stored.record.get("licence", ORIGINS[stored.source].licence)}
    changed = {key.removeprefix(prefix): what for key, what in fitted.changed.items()}
    report = replace(
        report,
        matched=tuple(key for key in report.matched if key not in changed),
        reshaped={key: what for key, what in changed.items() if key in report.matched},
    )
    if echo is not None:
        echo(str(report))
    return report


def _said(stored: StoredViT, encoder: VisionTransformer) -> str:
    said = f"{ORIGINS[stored.source].title} names"
    if stored.eps != encoder.config.eps:
        said += f"; LayerNorm eps {stored.eps:g} there, {encoder.config.eps:g} here"
    return said


def vit_config_of(path: Path | str, *, clip: tuple[int, int, int] | None = None, heads: int | None = None) -> ViTConfig:
    """Configuration of the network in a file, on the clip it was trained on.

    Args:
        path, clip: see :func:`suite3d.interop.vit.read.read_vit`.
        heads: attention heads, where neither the file nor the table of published widths says.

    Raises:
        ValueError: the heads are not known, or the file is none of a known project.
    """
    stored = read_vit(path, clip=clip)
    state, patch, grid = stored.state, stored.patch, stored.grid
    heads = heads or stored.heads
    if heads is None:
        raise ValueError(
            f"{stored.path}: a network of {stored.dim} channels is none of the published ones, "
            "and the file does not say its attention heads: say heads="
        )
    swiglu = "encoder.blocks.0.mlp.w12.weight" in state
    hidden = state["encoder.blocks.0.mlp.w3.weight" if swiglu else "encoder.blocks.0.mlp.fc1.weight"].shape[1 if swiglu else 0]
    names = {part: f"encoder.blocks.0.attn.{part}_bias" in state for part in "qkv"}
    registers = state.get("encoder.register_tokens")
    positions: PositionKind = "learned" if stored.positions == "stored" else stored.positions
    return ViTConfig(
        dim=stored.dim,
        depth=1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.blocks.")),
        heads=heads,
        mlp_ratio=4.0 if swiglu else hidden / stored.dim,
        clip=clip or (grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2]),
        patch=patch,
        channels=state["encoder.patch_embed.proj.weight"].shape[1],
        positions=positions,
        qkv_bias="full" if names["k"] else "qv" if names["q"] else "none",
        attention="cosine" if "encoder.blocks.0.attn.scale" in state else "dot",
        mlp="swiglu" if swiglu else "gelu",
        layer_scale=1.0 if "encoder.blocks.0.ls1.gamma" in state else 0.0,
        class_token="encoder.cls_token" in state,
        registers=0 if registers is None else registers.shape[1],
        final_norm="encoder.norm.weight" in state,
        eps=stored.eps,
    )
