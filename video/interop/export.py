"""``suite3d export RUN OUT layout=videomae``: a video run's weights for the code that people already use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from suite3d.config import ConfigError
from suite3d.interop.vit import LAYOUTS, Layout, export_vit


def export_run(run: Path, out: Path, options: Sequence[str] = ()) -> str:
    """Write ``out`` and say in one line what it holds.

    Args:
        run: run directory, or an ``encoder.safetensors``.
        out: file, or a folder for transformers.
        options: ``layout=videomae`` (default), ``videomae_finetuned``, ``transformers``, ``transformers_v5`` or ``timm``.

    Raises:
        ConfigError: no such run, an unknown option, or a network the other project cannot express.
    """
    layout = "videomae"
    for option in options:
        key, _, value = option.partition("=")
        if key != "layout":
            raise ConfigError(f"export: unknown key '{key}'. Did you mean 'layout'?")
        if value not in LAYOUTS:
            raise ConfigError(f"export: layout expected one of {', '.join(LAYOUTS)}, got '{value}'")
        layout = value
    if run.is_dir() and not (run / "encoder.safetensors").is_file():
        raise ConfigError(f"{run} is not a run with a saved encoder: {run / 'encoder.safetensors'} does not exist")
    try:
        return export_vit(run, out, layout=cast(Layout, layout))
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error
