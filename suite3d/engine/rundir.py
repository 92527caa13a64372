"""The run directory: everything about a run in one place."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from suite3d.config import ConfigError, to_yaml
from suite3d.engine.files import read_json_lines, write_json, write_text

FREE_KEYS = ("train.workers", "train.log_every", "train.save_every", "train.visual_every", "train.probe_every", "train.device", "train.keep", "run")
"""Keys that may differ on resume because they do not change what is learned."""


def environment() -> dict[str, Any]:
    """Versions and machine, for environment.json and bug reports."""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "command": sys.argv,
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


class RunDirectory:
    """Writes a run's records. Only the main rank writes; on other ranks every method does nothing.

    Layout: ``config.yaml environment.json metrics.jsonl skipped.jsonl nonfinite.jsonl load.json provenance.json result.json
    checkpoints/ pictures/ encoder.safetensors report.html``.
    """

    def __init__(self, path: Path, *, main: bool = True) -> None:
        self.path = path
        self.main = main
        self._seen_bad: set[str] = set()
        self._tensorboard: Any = None

    def open(self, config: Any) -> None:
        """Create the directory, or check that it belongs to this configuration. Raises ConfigError naming a changed key."""
        if not self.main:
            return
        stored = self.path / "config.yaml"
        if stored.exists():
            self._check_same(config, stored)
        for folder in ("checkpoints", "pictures"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        write_text(stored, to_yaml(config))
        write_json(self.path / "environment.json", environment())

    def _check_same(self, config: Any, stored: Path) -> None:
        new_flat = _flat(yaml.safe_load(to_yaml(config)))
        old_flat = _flat(yaml.safe_load(stored.read_text(encoding="utf-8")))
        for key in sorted(new_flat.keys() | old_flat.keys()):
            if key.startswith(FREE_KEYS):
                continue
            if new_flat.get(key) != old_flat.get(key):
                raise ConfigError(
                    f"{self.path} was started with {key}={old_flat.get(key)} and now {key}={new_flat.get(key)} is asked for; "
                    f"use another run.dir, or run.fresh=true to start it anew"
                )

    def rewind(self, step: int) -> None:
        """Drop rows logged after the checkpoint that a resume starts from, so no step appears twice."""
        if not self.main:
            return
        for name in ("metrics.jsonl", "skipped.jsonl", "nonfinite.jsonl"):
            file = self.path / name
            if file.exists():
                rows = [row for row in read_json_lines(file) if row.get("step", 0) < step]
                write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        self._seen_bad = {row["path"] for row in read_json_lines(self.path / "skipped.jsonl")}
        self._open_tensorboard(purge=step)

    def _open_tensorboard(self, purge: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._tensorboard = SummaryWriter(str(self.path / "tensorboard"), purge_step=purge)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        if self.main:
            with open(self.path / name, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(row) + "\n")

    def log(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """One row of metrics.jsonl; tensors become numbers."""
        plain = {key: value.item() if isinstance(value, Tensor) else value for key, value in values.items()}
        self._append("metrics.jsonl", {"step": step, "time": round(time.time(), 3), "kind": kind, **plain})
        if self._tensorboard is not None and self.main:
            for key, value in plain.items():
                if isinstance(value, (int, float)):
                    self._tensorboard.add_scalar(f"{kind}/{key}", value, step)

    def skipped(self, step: int, bad: list[tuple[str, str]]) -> int:
        """List broken samples, each once; returns how many different ones there are so far."""
        for path, reason in bad:
            if path not in self._seen_bad:
                self._seen_bad.add(path)
                self._append("skipped.jsonl", {"step": step, "path": path, "reason": reason})
        return len(self._seen_bad)

    def nonfinite(self, step: int, names: list[str]) -> None:
        self._append("nonfinite.jsonl", {"step": step, "names": names})

    def write(self, name: str, value: Any) -> None:
        if self.main:
            write_json(self.path / name, value)

    def picture(self, name: str, image: np.ndarray[Any, Any]) -> None:
        if self.main:
            from suite3d.report.png import write_png

            write_png(self.path / "pictures" / f"{name}.png", image)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.")
    return flat


__all__ = ["RunDirectory", "environment"]
