"""Statistics of batch norms: measured over many batches, for runs too short for a running average to settle, and shared over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite3d.engine.distributed import pick_device


@torch.no_grad()
def recalibrate_norms(model: nn.Module, batches: Iterable[Any], run: Callable[[Any], object]) -> int:
    """Replace every batch norm's running statistics by their plain average over ``batches``; weights do not change.

    With the published momentum of 0.01, a run of a few hundred steps ends with statistics that still hold part of the initial
    0 and 1, which ruins evaluation and flatters whichever model started from trained statistics.
    Source: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3 (PreciseBN).

    Args:
        model: any module; put in training mode for the passes, its mode is restored.
        batches: what ``run`` takes.
        run: one forward pass of the model in training mode.

    Returns:
        Number of normalisation layers updated.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    mode = model.training
    model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    for batch in batches:
        run(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(mode)
    return len(norms)


def synchronise_norms(method: nn.Module, device: str) -> nn.Module:
    """Batch norms that share their statistics over all ranks, on GPUs; torch has none for CPUs, where each rank keeps its own and says so."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return method
    if pick_device(device).type != "cuda":
        if dist.get_rank() == 0:
            print("batch norms are not synchronised: torch can do that on GPUs only, so every rank normalises by its own samples")
        return method
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    return converted
