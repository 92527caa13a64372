"""One process, torchrun or SLURM: the same code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0

    def all_true(self, flag: bool) -> bool:
        """Whether ``flag`` holds on every rank (one tiny all-reduce; nothing in a single process)."""
        if self.size == 1:
            return flag
        value = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return bool(value.item())

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Average of a tensor over the ranks."""
        if self.size > 1:
            dist.all_reduce(values)
            values = values / self.size
        return values

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto`` takes the GPU when there is one. Raises ValueError for a CUDA device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name} was asked for, but torch {torch.__version__} sees no GPU; use device=cpu or install a CUDA build")
    return device


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join the process group that torchrun or SLURM describes in the environment; leave it at the end."""
    environment = os.environ
    size = int(
        environment.get("WORLD_SIZE", environment.get("SLURM_NTASKS", "1") if "SLURM_PROCID" in environment and "MASTER_ADDR" in environment else "1")
    )
    rank = int(environment.get("RANK", environment.get("SLURM_PROCID", "0"))) if size > 1 else 0
    local = int(environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", "0"))) if size > 1 else 0
    chosen = pick_device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    joined = size > 1 and not dist.is_initialized()
    if joined:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=size)
    try:
        yield World(rank=rank, size=size, local_rank=local, device=chosen)
    finally:
        if joined:
            dist.destroy_process_group()
