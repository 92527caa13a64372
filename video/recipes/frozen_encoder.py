"""The encoder of a run directory or file, built from what the file says about itself."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from suite3d.config import ConfigError
from suite3d.interop.save import read_metadata
from suite3d.interop.vit import load_vit, vit_config_of
from suite3d.nn.vit import VisionTransformer
from suite3d.video.backbones import UniFormer, UniFormerConfig, VideoResNet, r2plus1d_18, r3d_18, r3d_50
from suite3d.video.interop import initialise_encoder
from suite3d.video.recipes.encoder import VideoEncoderConfig, encoder_settings


def load_frozen(path: Path, clip: tuple[int, int, int]) -> nn.Module:
    """The encoder of ``path`` for clips of (frames, height, width), in evaluation mode, without gradients.

    Args:
        path: run directory, ``encoder.safetensors``, or a vision transformer's file of another project.

    Raises:
        ConfigError: nothing there, not an encoder of clips, or sizes that do not fit.
    """
    encoder = build_like(path, clip)
    try:
        if isinstance(encoder, VisionTransformer):
            load_vit(encoder, path)
        else:
            initialise_encoder(encoder, path)
    except (ValueError, FileNotFoundError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    return encoder.eval().requires_grad_(False)


def build_like(path: Path, clip: tuple[int, int, int], *, drop_path: float = 0.0, checkpoint: bool = False, keep_norm: bool = True) -> nn.Module:
    """A fresh network like the one in a run or file, without its weights.

    Args:
        path, clip: as in :func:`load_frozen`.
        drop_path, checkpoint: of a vision transformer, see :class:`suite3d.nn.vit.ViTConfig`.
        keep_norm: a vision transformer keeps its final norm, if it had one.

    Raises:
        ConfigError: see :func:`load_frozen`.
    """
    file = path / "encoder.safetensors" if path.is_dir() and (path / "encoder.safetensors").is_file() else path
    if not file.exists():
        raise ConfigError(f"{path}: no such run or file")
    try:
        found = _convolutional(file)
        if found is not None:
            return found
        stored = vit_config_of(path)
        patch = (1 if clip[0] == 1 else stored.patch[0], stored.patch[1], stored.patch[2])
        settings = replace(stored, clip=clip, patch=patch, drop_path=drop_path, checkpoint=checkpoint, final_norm=stored.final_norm and keep_norm)
        return VisionTransformer(settings)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{path}: {error}") from error


def finetuned_encoder(config: VideoEncoderConfig, like: str, clip: tuple[int, int, int], *, keep_norm: bool) -> nn.Module:
    """A fresh encoder for fine-tuning: like the one in the run or file ``like``, else of the sizes in ``config``.

    ``config.drop_path`` and ``config.checkpoint`` count in both cases.

    Raises:
        ConfigError: see :func:`build_like`, or sizes that do not fit.
    """
    if not like:
        settings = encoder_settings(config, clip)
        try:
            return VisionTransformer(replace(settings, final_norm=keep_norm))
        except ValueError as error:
            raise ConfigError(f"encoder: {error}") from error
    encoder = build_like(Path(like), clip, drop_path=config.drop_path, checkpoint=config.checkpoint, keep_norm=keep_norm)
    said = f"{encoder.config.dim} channels, {encoder.config.depth} blocks" if isinstance(encoder, VisionTransformer) else type(encoder).__name__
    print(f"encoder as in {like} ({said}); the sizes under `encoder` do not count", flush=True)
    return encoder


def fresh_like(encoder: nn.Module) -> nn.Module:
    """The same network with random weights, drawn from torch's generator: what the architecture gives without training."""
    if isinstance(encoder, VisionTransformer):
        made: nn.Module = VisionTransformer(encoder.config)
    elif isinstance(encoder, UniFormer):
        made = UniFormer(encoder.config)
    elif isinstance(encoder, VideoResNet):
        made = _resnet(encoder.name, encoder.width)
    else:
        raise ValueError(f"no way to build another {type(encoder).__name__}")
    return made.eval().requires_grad_(False)


def _convolutional(file: Path) -> nn.Module | None:
    """A fresh network of the convolutional class that one of our files names, None for any other file."""
    if file.suffix != ".safetensors":
        return None
    said = read_metadata(file).get("description", {})
    if said.get("class") == "VideoResNet":
        return _resnet(str(said["name"]), int(said.get("width", 64)))
    if said.get("class") == "UniFormer":
        config: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in said["config"].items()}
        return UniFormer(UniFormerConfig(**config))
    return None


def _resnet(name: str, width: int) -> VideoResNet:
    if name in ("r3d_18", "r2plus1d_18"):
        return r3d_18(width=width) if name == "r3d_18" else r2plus1d_18(width=width)
    match = re.fullmatch(r"r3d_50(?:\(stem_frames=(\d+), stem_stride=(\d+)\))?", name)
    if match is None:
        raise ValueError(f"unknown 3D residual network '{name}'")
    return r3d_50(width=width, stem_frames=int(match[1] or 5), stem_stride=int(match[2] or 2))
