"""Tile sizes of the masked implicit GEMM, timed on a kernel map: what ``ops_gpu.py --tune`` runs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from suite3d.ops.sparse.implicit_gemm import make_plan
from suite3d.ops.sparse.implicit_gemm.ops import list_pairs
from suite3d.ops.sparse.implicit_gemm.tiles import TABLE, Pass, Precision, Tile, candidates, choose, use_tile

Timer = Callable[[Callable[[], object]], float]
DTYPES = {"half": torch.bfloat16, "tf32": torch.float32, "ieee": torch.float32}


def search(first: Tile, allowed: list[Tile], cost: Callable[[Tile], float]) -> tuple[Tile, float, int]:
    """Best tile found, its cost and how many were timed: from ``first``, the best of those that differ in one size, until none is better."""
    costs = {first: cost(first)}
    best = first
    while True:
        near = [tile for tile in allowed if sum(a != b for a, b in zip(dataclasses.astuple(tile), dataclasses.astuple(best), strict=True)) == 1]
        for tile in near:
            if tile not in costs:
                costs[tile] = cost(tile)
        found = min(costs, key=lambda tile: costs[tile])
        if found == best:
            return best, costs[best], len(costs)
        best = found


def passes(table: Tensor, precision: Precision, width: int) -> dict[Pass, Callable[[], object]]:
    """The two kernels on a map, at ``width`` channels in and out."""
    plan, pairs, tf32 = make_plan(table), list_pairs(table), precision == "tf32"
    feats, grad = (torch.randn(table.shape[1], width, device=table.device, dtype=DTYPES[precision]) for _ in range(2))
    weight = torch.randn(width, len(table), width, device=table.device)
    run = torch.ops.suite3d
    return {
        "rows": lambda: run.implicit_gemm(feats, weight, None, plan, [], [], True, tf32),
        "weight": lambda: run.implicit_gemm_weight_grad(feats, grad, pairs, torch.float32, tf32),
    }


def tune(table: Tensor, precisions: list[Precision], time: Timer) -> Iterator[str]:
    """Lines of ``tiles.TABLE`` with the best tiles found for a submanifold map ``(K, V)``, and what they save.

    Args:
        table: of a map of the kind of scene that matters.
        precisions: which rows of the table.
        time: time of a call, warm-up included; a tile that needs more shared memory than there is counts as infinitely slow.
    """
    from triton.runtime.errors import OutOfResources

    for kind, precision, width in TABLE:
        if precision not in precisions:
            continue
        run = passes(table, precision, width)[kind]

        def cost(tile: Tile, run: Callable[[], object] = run) -> float:
            with use_tile(tile):
                try:
                    return time(run)
                except OutOfResources:
                    return float("inf")

        first = choose(kind, precision, depth=width, width=width, volume=len(table))
        before = cost(first)
        best, after, timed = search(first, candidates(kind, precision, width), cost)
        sizes = ", ".join(str(size) for size in dataclasses.astuple(best))
        yield f'    ("{kind}", "{precision}", {width}): Tile({sizes}),  # {after:.1f} us, {before:.1f} before, {timed} timed'
