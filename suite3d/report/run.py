"""What a run directory holds, read so that a half-written or half-missing one still makes a report.

Files: ``config.yaml``, ``environment.json``, ``metrics.jsonl`` (one object a line: step, time, kind, scalars),
``pictures/*.png``, ``skipped.jsonl``, ``nonfinite.jsonl``, ``result.json``, ``load.json``, ``provenance.json``.
A comparison (twins) is a directory with a ``result.json`` over run directories below it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Series = tuple[list[float], list[float]]
NOT_CURVES = ("step", "time", "kind", "seconds_left")


@dataclass(kw_only=True)
class RunRecord:
    """One run.

    Attributes:
        path: its directory.
        name: how it is called in the report.
        config: text of config.yaml, or "".
        environment, result, load, provenance: contents of the json files; {} where missing or unreadable.
        metrics: rows of metrics.jsonl in order.
        skipped, nonfinite: rows of skipped.jsonl and nonfinite.jsonl.
        pictures: png files, oldest first.
        problems: what could not be read, one sentence each.
        parts: the runs below a comparison.
    """

    path: Path
    name: str
    config: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    nonfinite: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    parts: list[RunRecord] = field(default_factory=list)

    def series(self, kinds: tuple[str, ...] = ("train", "val", "probe")) -> dict[str, dict[str, Series]]:
        """``{scalar: {kind: (steps, values)}}`` of the finite numbers that were logged, in order of first appearance."""
        found: dict[str, dict[str, Series]] = {}
        for row in self.metrics:
            kind = row.get("kind", "train")
            if kind not in kinds or not _number(row.get("step")):
                continue
            for key, value in row.items():
                if key not in NOT_CURVES and _number(value):
                    steps, values = found.setdefault(key, {}).setdefault(kind, ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(value))
        return found

    def events(self) -> list[tuple[float, str]]:
        """(step, message) of the logged events."""
        return [(float(row.get("step") or 0), str(row.get("message", row))) for row in self.metrics if row.get("kind") == "event"]

    @property
    def steps(self) -> int | None:
        """Steps done as far as they were logged, or None."""
        done = [int(row["step"]) + 1 for row in self.metrics if row.get("kind") == "train" and _number(row.get("step"))]
        return max(done) if done else None

    def last(self, key: str) -> float | None:
        """Latest logged value of a scalar, or None."""
        return next((float(row[key]) for row in reversed(self.metrics) if _number(row.get(key))), None)


def read_run(path: Path, *, name: str = "") -> RunRecord:
    """Read a run directory, or a comparison with the runs below it.

    Raises:
        ValueError: ``path`` is not a directory.
    """
    if not path.is_dir():
        raise ValueError(f"expected a run directory, got {path}, which is not a directory")
    record = RunRecord(path=path, name=name or path.resolve().name)
    for key in ("environment", "result", "load", "provenance"):
        setattr(record, key, _read_object(path / f"{key}.json", record.problems))
    for key in ("metrics", "skipped", "nonfinite"):
        setattr(record, key, _read_lines(path / f"{key}.jsonl", record.problems))
    if (path / "config.yaml").exists():
        record.config = _read_text(path / "config.yaml", record.problems)
    record.pictures = sorted((path / "pictures").glob("*.png"), key=lambda file: file.name)
    if not record.metrics:
        below = sorted({file.parent for pattern in ("*/metrics.jsonl", "*/*/metrics.jsonl", "*/*/*/metrics.jsonl") for file in path.glob(pattern)})
        record.parts = [read_run(part, name=str(part.relative_to(path))) for part in below]
    return record


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_text(path: Path, problems: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        problems.append(f"{path.name} could not be read: {error.strerror}.")
        return ""


def _read_object(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    text = _read_text(path, problems)
    try:
        value = json.loads(text)
    except ValueError:
        problems.append(f"{path.name} is not complete json and was left out.")
        return {}
    return value if isinstance(value, dict) else {"value": value}


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows, broken = [], 0
    for line in _read_text(path, problems).splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            broken += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
    if broken:
        problems.append(f"{path.name}: {broken} incomplete {'line was' if broken == 1 else 'lines were'} left out, as a killed run leaves them.")
    return rows
