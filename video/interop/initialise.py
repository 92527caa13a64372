"""``init=FILE`` of the video recipes: weights only, from a run or from another project's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from suite3d.config import ConfigError
from suite3d.interop.load import load_weights, read_checkpoint
from suite3d.interop.vit import load_vit
from suite3d.nn.vit import VisionTransformer


def initialise_encoder(module: nn.Module, path: Path, *, minimum: float = 0.9) -> dict[str, Any]:
    """Load a file, a transformers folder or a run directory; returns the printed report as json for ``load.json``.

    Args:
        module: an encoder, or a method with one as ``.encoder``. A method around a vision transformer also takes VideoMAE's decoder, where the
            file has it; pass ``method.encoder`` to leave the decoder at its start. Of a convolutional method only the encoder is loaded.
        path: what ``init=`` names.
        minimum: smallest accepted share of the parameters.

    Raises:
        ConfigError: nothing there.
        LoadRefused, ValueError: see :func:`suite3d.interop.vit.load_vit`.
    """
    if not path.exists():
        raise ConfigError(f"init={path}: no such file or folder")
    encoder = getattr(module, "encoder", module)
    try:
        if isinstance(encoder, VisionTransformer):
            return load_vit(module, path, minimum=minimum).as_dict()
        file = path / "encoder.safetensors" if path.is_dir() else path
        state = read_checkpoint(file)
    except FileNotFoundError as error:
        raise ConfigError(f"init={path}: {error}") from error
    inner = any(key.startswith("encoder.") for key in state)
    state = {key.removeprefix("encoder."): value for key, value in state.items() if not inner or key.startswith("encoder.")}
    return load_weights(encoder, state, minimum=minimum, source=str(file)).as_dict()
