"""What the scripts and the tests of two ranks share. A script is called as OUT STORE RANK WORLD; WORLD=1 computes on the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

SHARES = (5, 8)
"""Rows of each rank: unequal on purpose."""
ROOT = Path(__file__).parents[3]

Results = dict[str, tuple[torch.Tensor, torch.Tensor]]


@contextmanager
def group(store: str, rank: int, world: int) -> Iterator[slice]:
    """Join the ranks, if there are several; yields this rank's rows of the batch."""
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    first = sum(SHARES[:rank])
    yield slice(first, first + SHARES[rank]) if world > 1 else slice(0, sum(SHARES))
    if world > 1:
        dist.destroy_process_group()


def gradients(losses: Callable[[torch.Tensor], dict[str, torch.Tensor]], world: int, dtype: torch.dtype = torch.float32) -> Results:
    """Value and gradient of every loss of a fixed weight, which plays the model: averaged over ranks as DistributedDataParallel does."""
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()
    results = {}
    for name, loss in losses(weight).items():
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        value = loss.detach().clone()
        if world > 1:
            dist.all_reduce(gradient)
            dist.all_reduce(value)
        results[name] = (value / world, gradient / world)
    return results


def start(script: Path, out: Path, rank: int, world: int) -> subprocess.Popen[bytes]:
    """One process of a script; the ranks meet in a file beside ``out``."""
    command = [sys.executable, "-W", "ignore", str(script), str(out), str(out.parent / "store"), str(rank), str(world)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def finish(jobs: list[subprocess.Popen[bytes]]) -> None:
    """Wait for all; each must have succeeded."""
    assert [job.wait(timeout=120) for job in jobs] == [0] * len(jobs)
