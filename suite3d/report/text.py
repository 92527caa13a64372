"""The same in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from suite3d.report.curves import sparkline
from suite3d.report.run import RunRecord, read_run

WIDTH = 120
FILE_WIDTH = 180


def make_table(table: Mapping[str, Any], *, title: str = "") -> Table:
    """A rich table from ``{"columns": [...], "rows": [[...]]}``."""
    drawn = Table(title=title or None, title_justify="left", header_style="bold")
    for number, column in enumerate(table["columns"]):
        drawn.add_column(str(column), justify="left" if number == 0 else "right", overflow="fold")
    for row in table["rows"]:
        drawn.add_row(*(_cell(value) for value in row))
    return drawn


def print_table(table: Mapping[str, Any], *, title: str = "") -> None:
    """Print ``{"columns": [...], "rows": [[...]]}``, as wide as the terminal, or :data:`FILE_WIDTH` in a pipe or a log."""
    width = None if sys.stdout.isatty() else FILE_WIDTH
    Console(markup=False, highlight=False, width=width).print(make_table(table, title=title))


def summarise(run_dir: str | Path, *, width: int = WIDTH) -> str:
    """What happened in a run, as text: state, result table, last values with their curves, notes, skipped files.

    Raises:
        ValueError: ``run_dir`` is not a directory.
    """
    record = read_run(Path(run_dir))
    parts: list[RenderableType] = [f"{record.name}  ({record.path.resolve()})"]
    for run in record.parts or [record]:
        parts.append(_state(run))
    if isinstance(record.result.get("table"), Mapping) and "columns" in record.result["table"]:
        parts.append(make_table(record.result["table"], title="result"))
    if record.result.get("note"):
        parts.append(str(record.result["note"]))
    curves = _curves(record) if not record.parts else _losses(record.parts)
    if curves.row_count:
        parts.append(curves)
    for run in record.parts or [record]:
        for step, message in run.events()[-5:]:
            parts.append(f"step {step:g}: {message}")
        if run.skipped:
            reasons = Table(title=f"{len(run.skipped)} {'sample' if len(run.skipped) == 1 else 'samples'} could not be used", title_justify="left")
            for column in ("file", "reason"):
                reasons.add_column(column, overflow="fold")
            for row in run.skipped[:10]:
                reasons.add_row(_cell(row.get("path")), _cell(row.get("reason")))
            parts.append(reasons)
    parts += record.problems
    return _render(parts, width)


def _state(run: RunRecord) -> str:
    if run.steps is None:
        return f"{run.name}: nothing was logged yet"
    speed, left = run.last("steps_per_second"), run.last("seconds_left")
    state = "finished" if run.result else "not finished"
    rate = f", {speed:.3g} steps/s" if speed is not None else ""
    remaining = f", about {left / 60:.0f} min were left" if left and not run.result else ""
    return f"{run.name}: {state}, {run.steps} steps{rate}{remaining}"


def _curves(run: RunRecord) -> Table:
    drawn = Table(title=run.name, title_justify="left", header_style="bold")
    for column, side in (("scalar", "left"), ("first", "right"), ("last", "right"), ("curve", "left")):
        drawn.add_column(column, justify="right" if side == "right" else "left")
    for key, by_kind in run.series().items():
        for kind, (_, values) in by_kind.items():
            drawn.add_row(key if kind == "train" else f"{key} ({kind})", f"{values[0]:.4g}", f"{values[-1]:.4g}", sparkline(values))
    return drawn


def _losses(runs: Sequence[RunRecord]) -> Table:
    """The training loss of every run of a comparison."""
    drawn = Table(title="loss", title_justify="left", header_style="bold")
    for column, side in (("run", "left"), ("first", "right"), ("last", "right"), ("curve", "left")):
        drawn.add_column(column, justify="right" if side == "right" else "left")
    for run in runs:
        values = run.series().get("loss", {}).get("train", ([], []))[1]
        if values:
            drawn.add_row(run.name, f"{values[0]:.4g}", f"{values[-1]:.4g}", sparkline(values))
    return drawn


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _render(parts: Iterable[RenderableType], width: int) -> str:
    output = StringIO()
    console = Console(file=output, width=width, markup=False, highlight=False, color_system=None)
    for part in parts:
        console.print(part)
    return output.getvalue().rstrip() + "\n"
