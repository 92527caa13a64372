"""Checkpoints that are whole, that resume exactly, and that never unpickle code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from suite3d.engine.files import write_atomically

_NAME = re.compile(r"step_(\d+)\.pt$")


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the complete checkpoints, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("step_*.pt") if (match := _NAME.search(path.name))]
    return sorted(found)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write ``step_N.pt`` under a temporary name, rename it, then drop all but the newest ``keep``.

    A full disk or any other failure raises and leaves the earlier checkpoints as they were.
    """
    path = folder / f"step_{step:08d}.pt"
    write_atomically(path, lambda temporary: torch.save({"step": step, **state}, temporary))
    for _, old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def load_checkpoint(folder: Path, *, device: torch.device) -> dict[str, Any] | None:
    """The newest checkpoint that reads, or None. A damaged newest file is passed over for the one before it."""
    for _, path in reversed(checkpoints(folder)):
        try:
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            print(f"checkpoint {path} cannot be read ({type(error).__name__}: {error}); trying the one before it")
            continue
        return state
    return None
