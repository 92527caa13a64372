"""Curves as inline SVG, one chart a scalar, with the value under the pointer shown."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence

from suite3d.report.run import Series

WIDTH, HEIGHT = 430, 210
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 26
COLORS = ("#2f7ed8", "#e0792c", "#2ca05a", "#c2457f", "#7d62c9", "#8a6d3b", "#1f9bad", "#a33b3b")
MAX_POINTS = 400

SCRIPT = """
document.querySelectorAll('figure.curve').forEach(function (figure) {
  var data = JSON.parse(figure.querySelector('script').textContent), svg = figure.querySelector('svg');
  var cursor = svg.querySelector('.cursor'), tip = figure.querySelector('.tip');
  svg.addEventListener('pointermove', function (event) {
    var box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * data.width / box.width;
    var step = data.x0 + (x - data.left) / data.scale, text = [], at = null;
    data.series.forEach(function (series) {
      var best = 0;
      series.x.forEach(function (value, i) { if (Math.abs(value - step) < Math.abs(series.x[best] - step)) best = i; });
      if (at === null || Math.abs(series.x[best] - step) < Math.abs(at - step)) at = series.x[best];
      var value = Number(series.y[best].toPrecision(5));
      text.push('<i style="background:' + series.color + '"></i>' + series.name + ' <b>' + value + '</b> @ ' + series.x[best]);
    });
    if (at === null) return;
    var px = data.left + (at - data.x0) * data.scale;
    cursor.setAttribute('x1', px); cursor.setAttribute('x2', px); cursor.style.display = 'inline';
    tip.innerHTML = text.join('<br>'); tip.style.display = 'block';
    tip.style.left = Math.min(px * box.width / data.width + 10, box.width - tip.offsetWidth - 4) + 'px';
  });
  svg.addEventListener('pointerleave', function () { cursor.style.display = 'none'; tip.style.display = 'none'; });
});
"""


def chart(title: str, series: Mapping[str, Series], *, colors: Sequence[str] = COLORS) -> str:
    """``<figure>`` with the curves of one scalar.

    Names that agree up to the first slash (the seeds of an arm) share a colour. Long series are thinned to bucket means,
    over a faint band from minimum to maximum. The y axis is logarithmic where all values are positive and span more than a factor of 100.

    Args:
        title: what is plotted.
        series: name -> (steps, values), finite.
    """
    kept = {name: points for name, points in series.items() if points[0]}
    if not kept:
        return ""
    values = [value for _, ys in kept.values() for value in ys]
    logarithmic = min(values) > 0 and max(values) / min(values) > 100
    height_of = math.log10 if logarithmic else float
    x0, x1 = min(xs[0] for xs, _ in kept.values()), max(xs[-1] for xs, _ in kept.values())
    y0, y1 = _padded(min(map(height_of, values)), max(map(height_of, values)))
    across = (WIDTH - LEFT - RIGHT) / max(x1 - x0, 1e-9)
    place_x = lambda x: LEFT + (x - x0) * across  # noqa: E731
    place_y = lambda y: HEIGHT - BOTTOM - (height_of(y) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    parts, payload = [_axes(x0, x1, y0, y1, logarithmic)], []
    groups = list(dict.fromkeys(map(_group, kept)))
    for name, points in kept.items():
        color = colors[groups.index(_group(name)) % len(colors)]
        xs, means, lows, highs = thin(points)
        if any(high > low for low, high in zip(lows, highs, strict=True)):
            band = [(x, y) for x, y in zip(xs, highs, strict=True)] + [(x, y) for x, y in zip(reversed(xs), reversed(lows), strict=True)]
            parts.append(f'<polygon points="{_points(band, place_x, place_y)}" fill="{color}" opacity="0.16"/>')
        line = list(zip(xs, means, strict=True))
        if len(line) == 1:
            parts.append(f'<circle cx="{place_x(line[0][0]):.1f}" cy="{place_y(line[0][1]):.1f}" r="3" fill="{color}"/>')
        else:
            parts.append(
                f'<polyline points="{_points(line, place_x, place_y)}" fill="none" stroke="{color}" stroke-width="1.6" stroke-linejoin="round"/>'
            )
        payload.append({"name": html.escape(name), "color": color, "x": xs, "y": [float(f"{value:.6g}") for value in means]})
    legend = [f'<span><i style="background:{colors[i % len(colors)]}"></i>{html.escape(group)}</span>' for i, group in enumerate(groups)]
    key = "".join(legend) if len(payload) > 1 else ""
    data = json.dumps({"x0": x0, "scale": across, "left": LEFT, "width": WIDTH, "series": payload}).replace("</", "<\\/")
    last = ", ".join(f"{points[1][-1]:.4g}" for points in kept.values()) if len(kept) <= 2 else ""
    return (
        f'<figure class="curve"><figcaption>{html.escape(title)}<em>{last}{" (log)" if logarithmic else ""}</em></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title, quote=True)}">{"".join(parts)}'
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" style="display:none"/></svg>'
        f'<div class="tip"></div><div class="key">{key}</div><script type="application/json">{data}</script></figure>'
    )


def _group(name: str) -> str:
    """``pretrained/seed0 (val)`` -> ``pretrained (val)``."""
    run, _, kind = name.partition(" (")
    return run.split("/")[0] + (f" ({kind}" if kind else "")


def thin(points: Series, *, limit: int = MAX_POINTS) -> tuple[list[float], list[float], list[float], list[float]]:
    """At most ``limit`` (+ 1) buckets of neighbouring points: last step, mean, minimum and maximum of each."""
    xs, ys = points
    size = max(1, -(-len(xs) // limit))
    chunks = [slice(start, start + size) for start in range(0, len(xs), size)]
    means = [sum(ys[chunk]) / len(ys[chunk]) for chunk in chunks]
    return [xs[chunk][-1] for chunk in chunks], means, [min(ys[chunk]) for chunk in chunks], [max(ys[chunk]) for chunk in chunks]


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Round numbers inside [low, high], about ``count`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def sparkline(values: Sequence[float], *, width: int = 40) -> str:
    """Text curve of ``width`` characters, bucket means, for a terminal."""
    if not values:
        return ""
    _, means, _, _ = thin((list(map(float, range(len(values)))), list(values)), limit=width)
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / (high - low)) if high > low else 0] for value in means)


def _axes(x0: float, x1: float, y0: float, y1: float, logarithmic: bool) -> str:
    parts = []
    for value in ticks(y0, y1):
        y = HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        label = f"{10**value:.3g}" if logarithmic else f"{value:.4g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>')
    for value in ticks(x0, x1):
        x = LEFT + (value - x0) / max(x1 - x0, 1e-9) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 9}" text-anchor="middle">{_short(value)}</text>')
    return "".join(parts)


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and value % (size / 10) == 0):
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) if high > low else max(abs(low) * 0.1, 1e-6)
    return low - margin, high + margin


def _points(points: list[tuple[float, float]], place_x: object, place_y: object) -> str:
    assert callable(place_x) and callable(place_y)
    return " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in points)
