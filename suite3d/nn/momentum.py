"""Teachers that follow a student: the momentum encoder of MoCo, BYOL, DINO and the JEPAs."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from suite3d.losses.gather import gather_rows, rank, world_size
from suite3d.nn.block import DropPath

Module = TypeVar("Module", bound=nn.Module)


def momentum_copy(student: Module, *, drop_path: bool = True) -> Module:
    """Copy of a student that no gradient reaches; ``drop_path=False`` switches off its stochastic depth, as DINO's teacher has none."""
    teacher = copy.deepcopy(student).requires_grad_(False)
    if not drop_path:
        for module in teacher.modules():
            if isinstance(module, DropPath):
                module.probability = 0.0
    return teacher


@torch.no_grad()
def momentum_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """``teacher <- momentum * teacher + (1 - momentum) * student``, all parameters in one call; buffers stay the teacher's own.

    Raises ValueError where the two do not have the same parameters, or for a momentum outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
    theirs, ours = dict(student.named_parameters()), dict(teacher.named_parameters())
    if theirs.keys() != ours.keys():
        raise ValueError(f"teacher and student must have the same parameters, they differ in {sorted(theirs.keys() ^ ours.keys())[:4]}")
    torch._foreach_lerp_(list(ours.values()), [theirs[name] for name in ours], 1 - momentum)


def momentum_at(step: int, total: int, start: float, end: float, *, shape: Literal["linear", "cosine"] = "linear") -> float:
    """Momentum of a step in [0, total): from ``start`` at the first to ``end`` at the last.

    ``linear``: V-JEPA. ``cosine``: BYOL, DINO: ``end - (end - start) (1 + cos(pi step / last)) / 2``.
    """
    share = min(max(step / max(total - 1, 1), 0.0), 1.0)
    if shape == "cosine":
        share = (1 - float(torch.cos(torch.tensor(torch.pi * share, dtype=torch.float64)))) / 2
    return start + (end - start) * share


@torch.no_grad()
def run_shuffled(module: nn.Module, rows: Tensor) -> tuple[Tensor, ...]:
    """``module(rows)``, each sample computed on a random rank (MoCo's shuffled batch norm, He et al., 2020, section 3.3).

    Batch norm lets the samples of a rank's batch see one another; were a query's key always normalised with the same company, the network
    could recognise it by that. The permutation is rank 0's, so all agree. In a single process the batch is one and nothing changes.

    Args:
        module: ``(N, ...) -> tuple of (N, ...)`` tensors.
        rows: ``(N, ...)``; N may differ between ranks.

    Returns:
        What ``module`` returns, in the order of ``rows``, without gradients.
    """
    if world_size() == 1:
        return tuple(module(rows))
    counts = gather_rows(torch.tensor([len(rows)], device=rows.device))
    first = int(counts[: rank()].sum())
    order = torch.randperm(int(counts.sum()), device=rows.device)
    torch.distributed.broadcast(order, src=0)
    own = order[first : first + len(rows)]
    results = module(gather_rows(rows)[own])
    back = order.argsort()[first : first + len(rows)]
    return tuple(gather_rows(result)[back] for result in results)
