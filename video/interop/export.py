"""``suite3d export RUN OUT layout=videomae``: a video run's weights for the code that people already use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from suite3d.config import ConfigError
from suite3d.interop.options import chosen_layout
from suite3d.interop.vit import LAYOUTS, Layout, export_vit
from suite3d.interop.vit.tables import IMAGENET_MEAN, IMAGENET_STD


def export_run(run: Path, out: Path, options: Sequence[str] = ()) -> str:
    """Write ``out`` and say in one line what it holds.

    Args:
        run: run directory, or an ``encoder.safetensors``.
        out: file, or a folder for transformers.
        options: ``layout=videomae`` (default), ``videomae_finetuned``, ``transformers``, ``transformers_v5`` or ``timm``.

    Raises:
        ConfigError: no such run, an unknown option, or a network the other project cannot express.
    """
    layout = cast(Layout, chosen_layout(options, LAYOUTS, "videomae"))
    if run.is_dir() and not (run / "encoder.safetensors").is_file():
        raise ConfigError(f"{run} is not a run with a saved encoder: {run / 'encoder.safetensors'} does not exist")
    try:
        mean, std = _normalisation(run)
        return export_vit(run, out, layout=layout, mean=mean, std=std)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error


def _normalisation(run: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the pixels the run was trained on, from its configuration; ImageNet's where it names none."""
    file = (run if run.is_dir() else run.parent) / "config.yaml"
    if not file.is_file():
        return IMAGENET_MEAN, IMAGENET_STD
    config = OmegaConf.load(file)
    mean, std = (OmegaConf.select(config, f"augment.{name}", default=default) for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    return [float(value) for value in mean], [float(value) for value in std]
