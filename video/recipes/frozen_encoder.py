"""The encoder in a run directory or file, built from what the file says about itself."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from suite3d.config import ConfigError
from suite3d.interop.save import read_metadata
from suite3d.interop.vit import load_vit, vit_config_of
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.video.backbones import UniFormer, UniFormerConfig, VideoResNet, r2plus1d_18, r3d_18, r3d_50
from suite3d.video.interop import initialise_encoder


def load_frozen(path: Path, clip: tuple[int, int, int]) -> nn.Module:
    """The encoder of ``path`` for clips of (frames, height, width), in evaluation mode, without gradients.

    Args:
        path: run directory, ``encoder.safetensors``, or a vision transformer's file of another project.

    Raises:
        ConfigError: nothing there, not an encoder of clips, or sizes that do not fit.
    """
    file = path / "encoder.safetensors" if path.is_dir() and (path / "encoder.safetensors").is_file() else path
    if not file.exists():
        raise ConfigError(f"{path}: no such run or file")
    try:
        encoder = _convolutional(file) or VisionTransformer(vit_settings(path, clip))
        if isinstance(encoder, VisionTransformer):
            load_vit(encoder, path)
        else:
            initialise_encoder(encoder, path)
    except (ValueError, FileNotFoundError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    return encoder.eval().requires_grad_(False)


def vit_settings(path: Path, clip: tuple[int, int, int]) -> ViTConfig:
    """Configuration of the transformer in a file, on clips of another size."""
    stored = vit_config_of(path)
    patch = (1, *stored.patch[1:]) if clip[0] == 1 else stored.patch
    settings = replace(stored, clip=clip, patch=(patch[0], patch[1], patch[2]), drop_path=0.0)
    _ = settings.grid
    return settings


def fresh_like(encoder: nn.Module) -> nn.Module:
    """The same network with random weights, drawn from torch's generator: what the architecture gives without training."""
    if isinstance(encoder, VisionTransformer):
        made: nn.Module = VisionTransformer(encoder.config)
    elif isinstance(encoder, UniFormer):
        made = UniFormer(encoder.config)
    elif isinstance(encoder, VideoResNet):
        made = _resnet(encoder.name)
    else:
        raise ValueError(f"no way to build another {type(encoder).__name__}")
    return made.eval().requires_grad_(False)


def _convolutional(file: Path) -> nn.Module | None:
    """A fresh network of the convolutional class that one of our files names, None for any other file."""
    if file.suffix != ".safetensors":
        return None
    said = read_metadata(file).get("description", {})
    if said.get("class") == "VideoResNet":
        return _resnet(str(said["name"]))
    if said.get("class") == "UniFormer":
        config: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in said["config"].items()}
        return UniFormer(UniFormerConfig(**config))
    return None


def _resnet(name: str) -> VideoResNet:
    if name in ("r3d_18", "r2plus1d_18"):
        return r3d_18() if name == "r3d_18" else r2plus1d_18()
    match = re.fullmatch(r"r3d_50(?:\(stem_frames=(\d+), stem_stride=(\d+)\))?", name)
    if match is None:
        raise ValueError(f"unknown 3D residual network '{name}'")
    return r3d_50(stem_frames=int(match[1] or 5), stem_stride=int(match[2] or 2))
