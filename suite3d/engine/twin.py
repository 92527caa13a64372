"""A pretrained model beside its from-scratch twin: same data, order and number of steps, over seeds, with an interval."""

from __future__ import annotations

import copy
from typing import Any

from suite3d.engine.distributed import World
from suite3d.engine.files import write_json
from suite3d.engine.loop import run_task
from suite3d.engine.order import seed_everything
from suite3d.evaluate.statistics import mean_interval, paired_difference


def run_twins(config: Any, world: World) -> dict[str, Any]:
    """Train every arm on every seed and compare.

    Args:
        config: a resolved fine-tuning recipe with ``init``, ``twin``, ``seeds``, ``train`` and ``run``.
        world: this process among its peers.

    Returns:
        ``{"table": ..., "metrics": {arm: {metric: [value per seed]}}, "difference": {metric: ...}}``; also in result.json.

    Raises:
        ValueError: a twin without ``init`` (both arms would be from scratch).
    """
    if config.twin == "scratch" and not config.init:
        raise ValueError("twin=scratch compares with init=FILE, but init is empty: name the pretrained run or encoder file")
    arms = {"pretrained" if config.init else "scratch": config.init} | ({"scratch": ""} if config.twin == "scratch" else {})
    scores: dict[str, dict[str, list[float]]] = {}
    primary = ""
    for number in range(config.seeds):
        for arm, init in arms.items():
            single = copy.deepcopy(config)
            single.init, single.twin, single.seeds = init, "none", 1
            single.train.seed = config.train.seed + number
            single.run.dir = config.run.dir / arm / f"seed{single.train.seed}"
            if world.main:
                print(f"--- {arm}, seed {single.train.seed}: {single.run.dir}")
            seed_everything(single.train.seed)
            result = run_task(single.task(), single.train, path=single.run.dir, world=world, resolved=single)
            primary = result.get("primary", primary)
            for metric, value in result.get("metrics", {}).items():
                scores.setdefault(arm, {}).setdefault(metric, []).append(value)
    outcome = compare(scores, primary)
    if world.main:
        outcome["labels"] = getattr(config, "labels", "100%")
        write_json(config.run.dir / "result.json", outcome)
        from suite3d.report.html import write_report

        outcome["report"] = str(write_report(config.run.dir))
    world.barrier()
    return outcome


def compare(scores: dict[str, dict[str, list[float]]], primary: str) -> dict[str, Any]:
    """Table of mean and 95 % interval per arm and metric, with the paired difference where there are two arms."""
    arms = list(scores)
    metrics = list(scores[arms[0]]) if arms else []
    paired = arms == ["pretrained", "scratch"]
    columns = ["metric", *arms, *(["difference", "95 % interval"] if paired else [])]
    rows, differences = [], {}
    for metric in metrics:
        row = [metric] + [_text(scores[arm][metric]) for arm in arms]
        if paired and len(scores["scratch"][metric]) > 1:
            gap = paired_difference(scores["pretrained"][metric], scores["scratch"][metric])
            differences[metric] = {"mean": gap.mean, "low": gap.low, "high": gap.high}
            row += [f"{gap.mean:+.2f}", f"[{gap.low:+.2f}, {gap.high:+.2f}]"]
        elif paired:
            row += [f"{scores['pretrained'][metric][0] - scores['scratch'][metric][0]:+.2f}", "needs seeds >= 2"]
        rows.append(row)
    return {"table": {"columns": columns, "rows": rows}, "metrics": scores, "difference": differences, "primary": primary}


def _text(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    interval = mean_interval(values)
    return f"{interval.mean:.2f} ± {interval.high - interval.mean:.2f} (n={len(values)})"
