"""Features of a folder in one file, for whatever comes next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suite3d.config import ConfigError
from suite3d.engine.files import write_atomically
from suite3d.evaluate.features import FeatureSet


def check_target(out: Path) -> None:
    """Raise ConfigError for a file that is not to be an ``.npz``, before hours of computing."""
    if out.suffix != ".npz":
        raise ConfigError(f"embed writes a numpy archive: expected OUT.npz, got '{out}'")


def write_embedding(out: Path, found: FeatureSet, classes: Sequence[str], *, kind: str, protocol: Mapping[str, Any]) -> str:
    """Write ``features (n, D)`` float32, ``names``, ``labels`` (-1 = none), ``classes``, ``skipped`` and ``protocol``; return what to tell a person.

    Read it with ``numpy.load(out)``; nothing in it is pickled. ``protocol`` is json: of which weights, on which data, pooled how.
    """

    def save(path: Path) -> None:
        with path.open("wb") as handle:
            np.savez(
                handle,
                features=found.features.numpy().astype(np.float32),
                names=np.array(found.names, dtype=np.str_),
                labels=found.labels.numpy(),
                classes=np.array(list(classes), dtype=np.str_),
                skipped=np.array(found.skipped, dtype=np.str_),
                protocol=np.array(json.dumps(dict(protocol), default=str)),
            )

    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, save)
    said = f"{len(found)} {kind} x {found.dim} features: {out}"
    return f"{said}\n{len(found.skipped)} could not be read, e.g. {found.skipped[0]}" if found.skipped else said
