"""Frozen features of a labelled set, kept in a file that knows which weights and which data they are from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from suite3d.engine.files import write_atomically

FORMAT = "suite3d.features/1"
"""Raised when features are computed differently, so that older files are not taken for new ones."""


@dataclass(kw_only=True)
class FeatureSet:
    """Features by sample.

    Attributes:
        features: ``(n, C)``, or ``(n, V, N, C)`` tokens of V views.
        labels: ``(n,)`` int64.
        names: n sample names. groups: n names of what belongs together (the clips of one video).
        skipped: ``"path: reason"`` of the samples that could not be read; they are not among the n.
        cached: whether they came from a file.
    """

    features: Tensor
    labels: Tensor
    names: list[str]
    groups: list[str]
    skipped: list[str] = field(default_factory=list)
    cached: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dim(self) -> int:
        return self.features.shape[-1]

    def batches(self, rows: Sequence[int], *, batch_size: int, epoch: int) -> Iterator[tuple[list[int], Tensor]]:
        """As :meth:`suite3d.evaluate.attentive.TokenBank.batches`, the same tokens in every epoch."""
        if self.features.ndim != 4:
            raise ValueError(f"expected tokens (n, V, N, C), got features of shape {tuple(self.features.shape)}: extract without pooling")
        for start in range(0, len(rows), batch_size):
            part = list(rows[start : start + batch_size])
            yield part, self.features[part].float()


def weights_digest(module: nn.Module) -> str:
    """16 hex digits over the names, shapes and values of a module's parameters and buffers, and its ``describe()``."""
    digest = hashlib.sha256()
    describe = getattr(module, "describe", None)
    if describe is not None:
        network = {key: value for key, value in describe().items() if key != "origin"}
        digest.update(json.dumps(network, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def cached_features(folder: Path, key: Mapping[str, Any], extract: Callable[[], FeatureSet]) -> FeatureSet:
    """Features under this key, from the file that holds them or else from ``extract()``, which are then written.

    Args:
        folder: where the files are.
        key: json values that settle the features: weights, samples, how they are cut and pooled, precision.
        extract: computes them.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True, default=str)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.safetensors"
    stored = _read(path, text)
    if stored is not None:
        return stored
    found = extract()
    metadata = {"key": text, "names": json.dumps(found.names), "groups": json.dumps(found.groups), "skipped": json.dumps(found.skipped)}
    tensors = {"features": found.features.contiguous(), "labels": found.labels.contiguous()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    return found


def _read(path: Path, text: str) -> FeatureSet | None:
    """The stored set, or None: no such file, a damaged one, or one of another key."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            if metadata.get("key") != text:
                return None
            lists = {name: json.loads(metadata[name]) for name in ("names", "groups", "skipped")}
            return FeatureSet(features=handle.get_tensor("features"), labels=handle.get_tensor("labels"), cached=True, **lists)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        print(f"{path} cannot be read ({type(error).__name__}: {error}); the features are computed again")
        return None
