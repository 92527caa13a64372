"""What the engine trains, and how a run is configured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from suite3d.engine.optim import OptimConfig
from suite3d.source import Source


@dataclass(kw_only=True)
class RunConfig:
    """Where a run lives.

    Attributes:
        dir: run directory; empty = ``runs/<recipe>``.
        fresh: delete what an earlier run left in the directory instead of resuming it.
    """

    dir: Path = Path("")
    fresh: bool = False


@dataclass(kw_only=True)
class TrainConfig:
    """The training loop.

    Attributes:
        steps: optimiser steps; 0 = derive from ``epochs``.
        epochs: passes over the training samples, used when ``steps`` is 0.
        batch_size: samples per optimiser step over all ranks and accumulation.
        accumulate: micro-batches per optimiser step.
        precision: ``fp32``, ``bf16`` (autocast) or ``fp16`` (autocast + loss scaling).
        ema: decay of the weight average used for evaluation and export; 0 = none.
        workers: loader processes per rank; -1 = one less than the cores, at most 8.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        log_every, save_every, visual_every, probe_every: in steps; 0 turns pictures or the probe off. Saving also happens at the end.
        keep: checkpoints kept.
        recalibrate: after the last step, average every batch norm's statistics over this many micro-batches; 0 keeps the running ones.
        seed: of weights, order, augmentation and masks.
        compile: ``torch.compile`` the model.
    """

    steps: int = 0
    epochs: float = 0.0
    batch_size: int = 4
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: float = 0.0
    workers: int = -1
    device: str = "auto"
    log_every: int = 20
    save_every: int = 500
    visual_every: int = 0
    probe_every: int = 0
    keep: int = 2
    recalibrate: int = 0
    seed: int = 0
    compile: bool = False
    optim: OptimConfig = field(default_factory=OptimConfig)

    def total_steps(self, samples: int) -> int:
        """Optimiser steps of the run. Raises ValueError if neither steps nor epochs is set."""
        if self.batch_size % self.accumulate:
            raise ValueError(f"train.batch_size={self.batch_size} must be divisible by train.accumulate={self.accumulate}")
        if self.steps > 0:
            return self.steps
        if self.epochs <= 0:
            raise ValueError("set train.steps or train.epochs to a positive number; both are 0")
        return max(1, round(self.epochs * samples / self.batch_size))


@dataclass(kw_only=True)
class Task:
    """Everything a run needs besides the loop.

    Attributes:
        model: method or detector; ``model(batch) -> Output``; has ``.encoder``.
        train: training samples.
        provenance: which labels, splits and poses this stage sees; stored with the weights.
        encoder_config: plain dict that rebuilds the encoder; stored with the weights.
        probe: ``probe(model, device) -> metrics`` run every ``probe_every`` steps on the current weights, or None.
        evaluate: ``evaluate(model, device, run directory) -> result`` run once at the end, or None.
        load_report: what ``init=`` loaded, or None when training from scratch.
    """

    model: nn.Module
    train: Source
    provenance: dict[str, Any] = field(default_factory=dict)
    encoder_config: dict[str, Any] = field(default_factory=dict)
    probe: Callable[[nn.Module, torch.device], dict[str, float]] | None = None
    evaluate: Callable[[nn.Module, torch.device, Path], dict[str, Any]] | None = None
    load_report: dict[str, Any] | None = None
