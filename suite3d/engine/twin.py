"""A pretrained model beside its from-scratch twin: same data, order and number of steps, over seeds, with an interval."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from suite3d.engine.distributed import World
from suite3d.engine.files import write_json
from suite3d.engine.loop import run_task
from suite3d.engine.order import seed_everything
from suite3d.evaluate.statistics import mean_interval, paired_difference


def run_twins(config: Any, world: World) -> dict[str, Any]:
    """Train every arm on every seed and compare.

    Args:
        config: a resolved fine-tuning recipe with ``init``, ``twin``, ``seeds``, ``jobs``, ``train`` and ``run``.
        world: this process among its peers.

    Returns:
        ``{"table": ..., "metrics": {arm: {metric: [value per seed]}}, "difference": {metric: ...}}``; also in result.json.

    Raises:
        ValueError: a twin without ``init`` (both arms would be from scratch).
    """
    if config.twin == "scratch" and not config.init:
        raise ValueError("twin=scratch compares with init=FILE, but init is empty: name the pretrained run or encoder file")
    arms = {"pretrained" if config.init else "scratch": config.init} | ({"scratch": ""} if config.twin == "scratch" else {})
    runs = [(arm, _single(config, arm, init, number)) for number in range(config.seeds) for arm, init in arms.items()]
    scores: dict[str, dict[str, list[float]]] = {}
    primary, protocol = "", None
    for (arm, _), result in zip(runs, _results([single for _, single in runs], config.jobs, world), strict=True):
        primary, protocol = result.get("primary", primary), result.get("protocol", protocol)
        for metric, value in result.get("metrics", {}).items():
            scores.setdefault(arm, {}).setdefault(metric, []).append(value)
    outcome = compare(scores, primary)
    if world.main:
        outcome["labels"] = getattr(config, "labels", "100%")
        outcome["protocol"] = protocol
        write_json(config.run.dir / "result.json", outcome)
        from suite3d.report.html import write_report

        outcome["report"] = str(write_report(config.run.dir))
    world.barrier()
    return outcome


def _single(config: Any, arm: str, init: str, number: int) -> Any:
    """The recipe of one arm and seed."""
    single = copy.deepcopy(config)
    single.init, single.twin, single.seeds, single.jobs = init, "none", 1, 1
    if hasattr(single, "like") and not single.like:
        single.like = config.init  # both arms have the network of the pretrained one
    single.train.seed = config.train.seed + number
    single.run.dir = config.run.dir / arm / f"seed{single.train.seed}"
    return single


def _results(singles: list[Any], jobs: int, world: World) -> Iterator[dict[str, Any]]:
    """Results in order; ``jobs`` runs at a time in processes that share out the threads, one after the other under torchrun."""
    if jobs <= 1 or world.size > 1:
        for single in singles:
            yield _train(single, world)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        yield from pool.map(_train, singles, [world] * len(singles))


def _train(single: Any, world: World) -> dict[str, Any]:
    if world.main:
        print(f"--- {single.run.dir}", flush=True)
    seed_everything(single.train.seed)
    return run_task(single.task(), single.train, path=single.run.dir, world=world, resolved=single)


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
