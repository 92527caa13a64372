"""Batch statistics measured over many batches, for runs too short for a running average to settle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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
