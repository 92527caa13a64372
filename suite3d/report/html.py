"""``report.html``: one file with everything a person wants to see of a run, no network, no server."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from suite3d.engine.files import write_text
from suite3d.report.curves import SCRIPT, chart
from suite3d.report.run import RunRecord, Series, read_run

MAX_PICTURES = 24
MAX_LISTED = 500
FIRST = ("loss", "acc", "probe", "knn", "ap", "nds", "rankme", "effective_rank", "feature_std", "feature_spread", "uniformity", "token_similarity")
LAST = ("lr", "grad_norm", "steps_per_second", "data_wait")

STYLE = """
:root { --ink: #1d2330; --faint: #697386; --line: #dfe3ea; --card: #fff; --page: #f5f6f9; --warn: #8a4b00; --warnpage: #fff4e0 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ee; --faint: #98a2b5; --line: #333a48; --card: #1c212b; --page: #13161d; --warn: #ffc46b; --warnpage: #33280f }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto; max-width: 1380px; padding: 20px 24px 60px }
h1 { font-size: 24px; margin: 4px 0 0 } h2 { font-size: 17px; margin: 34px 0 10px } p.sub { color: var(--faint); margin: 2px 0 0 }
section.cards { display: flex; flex-wrap: wrap; gap: 14px }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 10px; position: relative }
figure.curve { width: 430px; box-sizing: border-box } figcaption { font-weight: 600; font-size: 13.5px; overflow-wrap: anywhere }
figcaption em { color: var(--faint); font-weight: 400; font-style: normal; margin-left: 8px }
figure.picture img { max-width: 100%; max-height: 760px; display: block; margin-top: 6px; border-radius: 4px }
svg { width: 100%; display: block } svg text { font-size: 10.5px; fill: var(--faint) }
svg .grid { stroke: var(--line) } svg .cursor { stroke: var(--faint) }
.tip { display: none; position: absolute; top: 36px; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 4px 8px; font-size: 12px; pointer-events: none; white-space: nowrap; box-shadow: 0 2px 8px #0003 }
.key { font-size: 12px; color: var(--faint) } .key span { margin-right: 12px; white-space: nowrap }
.key i, .tip i { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 5px }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line); border-radius: 8px; font-size: 14px }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--line); text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
th { color: var(--faint); font-weight: 600 } td:first-child, th:first-child, table.text td, table.text th { text-align: left }
details { margin: 8px 0 } summary { cursor: pointer; color: var(--faint) } .wide { overflow-x: auto }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; overflow-x: auto; font-size: 12.5px }
.note { background: var(--warnpage); color: var(--warn); border-radius: 8px; padding: 8px 14px; margin: 8px 0 }
"""


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a run directory (or a comparison over runs) and return its path.

    Works on a run that is still going, was killed, or failed: what is missing is left out, what is damaged is said.

    Raises:
        ValueError: ``run_dir`` is not a directory. OSError: the report cannot be written.
    """
    record = read_run(Path(run_dir))
    target = record.path / "report.html"
    write_text(target, render_report(record))
    return target


def render_report(record: RunRecord) -> str:
    """The page as text."""
    runs = record.parts or [record]
    sections = [
        _head(record),
        _result(record.result),
        _notes(record, runs),
        _curves(runs),
        _pictures(runs),
        _mapping_section("Weights loaded", [(run, run.load) for run in runs if run.load]),
        _mapping_section("Labels and splits seen", [(run, run.provenance) for run in runs if run.provenance]),
        _skipped(runs),
        _config(record, runs),
        _mapping_section("Environment", [(run, run.environment) for run in (runs if record.parts else [record]) if run.environment][:1]),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escape(record.name)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def _head(record: RunRecord) -> str:
    known = [run.steps for run in record.parts or [record] if run.steps is not None]
    facts = [str(record.path.resolve())]
    if record.parts:
        facts.append(f"{len(record.parts)} runs")
    if known:
        facts.append(f"{max(known)} steps" if len(set(known)) == 1 else f"{min(known)} to {max(known)} steps")
    facts.append(time.strftime("written %Y-%m-%d %H:%M"))
    return f'<h1>{_escape(record.name)}</h1><p class="sub">{_escape(" · ".join(facts))}</p>'


def _result(result: Mapping[str, Any]) -> str:
    parts = [f'<p class="note">{_escape(result["note"])}</p>'] if result.get("note") else []
    tables = [("", result["table"])] if isinstance(result.get("table"), Mapping) else []
    tables += [(str(name), table) for name, table in result.get("tables", {}).items()] if isinstance(result.get("tables"), Mapping) else []
    for name, table in tables:
        if "columns" in table and "rows" in table:
            parts.append((f"<p><b>{_escape(name)}</b></p>" if name else "") + f'<div class="wide">{_table(table["columns"], table["rows"])}</div>')
    rest = {key: value for key, value in result.items() if key not in ("table", "tables", "note") and not isinstance(value, (dict, list))}
    if rest:
        parts.append(_table(("", ""), rest.items(), text=True, header=False))
    return f"<h2>Result</h2>{''.join(parts)}" if parts else ""


def _notes(record: RunRecord, runs: Sequence[RunRecord]) -> str:
    """Events, damaged files and non-finite steps."""
    everything = [record, *runs] if record.parts else runs
    text = [f"{run.name}: {problem}" if record.parts else problem for run in everything for problem in run.problems]
    for run in runs:
        name = f"{run.name}, " if len(runs) > 1 else ""
        text += [f"{name}step {step:g}: {message}" for step, message in _distinct(run.events())]
        if run.nonfinite:
            latest = run.nonfinite[-1]
            text.append(f"{name}the loss was not finite in {len(run.nonfinite)} steps, last at step {latest.get('step')} on {latest.get('names')}")
    if not text:
        return ""
    return (
        "<h2>Notes</h2>"
        + "".join(f'<p class="note">{_escape(line)}</p>' for line in text[:30])
        + (f"<p>and {len(text) - 30} more</p>" if len(text) > 30 else "")
    )


def _distinct(events: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Each message once, where it came first."""
    first: dict[str, float] = {}
    for step, message in events:
        first.setdefault(message, step)
    return [(step, message) for message, step in first.items()]


def _curves(runs: Sequence[RunRecord]) -> str:
    charts: dict[str, dict[str, Series]] = {}
    for run in runs:
        for key, by_kind in run.series().items():
            for kind, points in by_kind.items():
                label = run.name if len(runs) > 1 else kind
                charts.setdefault(key, {})[f"{label} ({kind})" if len(runs) > 1 and len(by_kind) > 1 else label] = points
    shown = {key: chart(key, charts[key]) for key in sorted(charts, key=_chart_order)}
    main = "".join(figure for key, figure in shown.items() if key not in LAST)
    other = "".join(figure for key, figure in shown.items() if key in LAST)
    if not main and not other:
        return ""
    more = f'<details><summary>learning rate, gradient, speed</summary><section class="cards">{other}</section></details>' if other else ""
    return f'<h2>Curves</h2><section class="cards">{main}</section>{more}'


def _chart_order(key: str) -> tuple[int, str]:
    lower = key.lower()
    if lower == "loss":
        return -1, lower
    if lower in LAST:
        return len(FIRST) + 1, lower
    return next(
        (place for place, word in enumerate(FIRST) if word in lower.replace("/", "_").split("_") or lower.startswith(word)), len(FIRST)
    ), lower


def _pictures(runs: Sequence[RunRecord]) -> str:
    """The latest pictures, newest first, shared out over the runs."""
    share = max(1, MAX_PICTURES // len(runs))
    figures, left_out = [], 0
    for run in runs:
        left_out += max(len(run.pictures) - share, 0)
        for file in reversed(run.pictures[-share:]):
            try:
                data = base64.b64encode(file.read_bytes()).decode()
            except OSError as error:
                figures.append(f'<p class="note">{_escape(file.name)} could not be read: {_escape(error.strerror)}</p>')
                continue
            caption = f"{run.name}: {file.stem}" if len(runs) > 1 else file.stem
            image = f'<img alt="{_escape(caption)}" src="data:image/png;base64,{data}">'
            figures.append(f'<figure class="picture"><figcaption>{_escape(caption)}</figcaption>{image}</figure>')
    more = f'<p class="sub">{left_out} earlier pictures are in the pictures folder.</p>' if left_out else ""
    return f'<h2>Pictures</h2><section class="cards">{"".join(figures)}</section>{more}' if figures else ""


def _mapping_section(title: str, entries: Sequence[tuple[RunRecord, Mapping[str, Any]]]) -> str:
    """Nested facts as a table; equal ones of several runs are shown once."""
    groups: list[tuple[list[str], Mapping[str, Any]]] = []
    for run, facts in entries:
        same = next((names for names, other in groups if other == facts), None)
        if same is None:
            groups.append(([run.name], facts))
        else:
            same.append(run.name)
    parts = []
    for names, facts in groups:
        label = f'<p class="sub">{_escape(", ".join(names))}</p>' if len(groups) > 1 else ""
        parts.append(label + _table(("", ""), _flatten(facts), text=True, header=False))
    return f"<h2>{_escape(title)}</h2>{''.join(parts)}" if parts else ""


def _flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += _flatten(item, f"{prefix}{key}.")
        elif isinstance(item, (list, tuple)):
            shown = ", ".join(map(str, item[:40]))
            rows.append((f"{prefix}{key}", f"{shown} and {len(item) - 40} more" if len(item) > 40 else shown))
        else:
            rows.append((f"{prefix}{key}", str(item)))
    return rows


def _skipped(runs: Sequence[RunRecord]) -> str:
    rows: dict[tuple[str, str], object] = {}
    for run in runs:
        for row in run.skipped:
            rows.setdefault((str(row.get("path", "?")), str(row.get("reason", "?"))), row.get("step", ""))
    if not rows:
        return "<h2>Skipped samples</h2><p>None.</p>"
    listed = [(path, reason, step) for (path, reason), step in list(rows.items())[:MAX_LISTED]]
    more = f"<p>and {len(rows) - MAX_LISTED} more in skipped.jsonl</p>" if len(rows) > MAX_LISTED else ""
    table = f'<div class="wide">{_table(("file", "reason", "first at step"), listed, text=True)}</div>{more}'
    return f"<h2>Skipped samples</h2><details{' open' if len(rows) <= 20 else ''}><summary>{len(rows)} could not be used</summary>{table}</details>"


def _config(record: RunRecord, runs: Sequence[RunRecord]) -> str:
    text = record.config or next((run.config for run in runs if run.config), "")
    return f"<h2>Configuration</h2><details><summary>config.yaml</summary><pre>{_escape(text)}</pre></details>" if text else ""


def _table(columns: Iterable[object], rows: Iterable[Iterable[object]], *, text: bool = False, header: bool = True) -> str:
    head = f"<tr>{''.join(f'<th>{_escape(column)}</th>' for column in columns)}</tr>" if header else ""
    body = "".join(f"<tr>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    style = ' class="text"' if text else ""
    return f"<table{style}>{head}{body}</table>"


def _escape(value: object) -> str:
    if isinstance(value, float):
        value = f"{value:.6g}"
    return html.escape("" if value is None else str(value), quote=True)
