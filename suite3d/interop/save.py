"""The one file that outlives a pretraining run: the encoder's tensors, flat, with what is needed to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from suite3d.engine.files import write_atomically
from suite3d.interop.load import read_header

FORMAT = "suite3d.encoder/1"


def save_encoder(path: Path, encoder: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write ``encoder.state_dict()`` as safetensors with ``metadata`` as json in the header.

    The file appears under its name only when it is whole and on disk. An encoder with a ``describe()`` method (class, input columns,
    grid) has the answer stored under ``"description"``, so that a later load can match inputs by name.

    Args:
        metadata: json-like values, dataclasses and paths.

    Raises:
        OSError: the disk is full or the folder not writable; an earlier file stays as it was.
        ValueError: metadata that json cannot hold, or weights that are not finite.
    """
    tensors = {name: _own(tensor) for name, tensor in encoder.state_dict().items()}
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(f"save_encoder expected finite weights, got NaN or Inf in {broken[:4]}: nothing was written")
    content = dict(metadata)
    describe = getattr(encoder, "describe", None)
    if describe is not None:
        content["description"] = describe()
    header = {"format": FORMAT, "metadata": json.dumps(content, default=_plain)}
    payload = save(tensors, metadata=header)
    write_atomically(Path(path), lambda temporary: _write(temporary, payload))


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What :func:`save_encoder` was given, empty for files from elsewhere."""
    header = read_header(path)
    return json.loads(header["metadata"]) if header.get("format") == FORMAT else {}


def _write(path: Path, payload: bytes) -> None:
    path.write_bytes(payload)


def _own(tensor: Tensor) -> Tensor:
    """CPU copy that shares memory with nothing, as the format demands."""
    return tensor.detach().cpu().contiguous().clone()


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise ValueError(f"metadata expected json values, dataclasses and paths, got {type(value).__name__}")
