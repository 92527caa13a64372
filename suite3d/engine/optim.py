"""Optimisers, parameter groups and schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from suite3d.engine.layers import layer_scales


@dataclass(kw_only=True)
class OptimConfig:
    """Optimiser and schedule.

    Attributes:
        name: ``adamw`` or ``sgd`` (Nesterov momentum = betas[0]).
        lr: peak learning rate, absolute (no hidden batch scaling).
        weight_decay: on weights of rank >= 2 only; biases and norms are not decayed.
        schedule: ``cosine`` (linear warm-up, cosine to ``lr * final``), ``onecycle`` (OpenPCDet's adam_onecycle:
            cosine from lr/div to lr over ``pct`` of the steps while beta1 falls from moms[0] to moms[1], then back
            down to lr/div/1e4), or ``constant`` (after warm-up).
        warmup: share of the steps with linear warm-up (cosine, constant).
        encoder_lr: multiplier on the learning rate of the encoder's parameters (fine-tuning).
        layer_decay: a further factor from each layer of the encoder to the one before it, see :mod:`suite3d.engine.layers`; 1 = none.
        clip: gradient norm limit, 0 = none.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.05
    schedule: Literal["cosine", "onecycle", "constant"] = "cosine"
    warmup: float = 0.05
    final: float = 0.0
    pct: float = 0.4
    div: float = 10.0
    moms: tuple[float, float] = (0.95, 0.85)
    encoder_lr: float = 1.0
    layer_decay: float = 1.0
    clip: float = 10.0


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups by (encoder or not, its layer) x (decayed or not). ``scale`` multiplies the schedule's learning rate."""
    encoder = getattr(model, "encoder", None)
    inside = {id(p) for p in encoder.parameters()} if isinstance(encoder, nn.Module) else set()
    layers = layer_scales(model, config.layer_decay) if config.layer_decay != 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            scale = (config.encoder_lr if id(parameter) in inside else 1.0) * layers.get(id(parameter), 1.0)
            decay = config.weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in groups.items()]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config)
    if not groups:
        raise ValueError("the model has no parameter that requires a gradient, so there is nothing to train")
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0], nesterov=config.betas[0] > 0)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))


def schedule(config: OptimConfig, step: int, total: int) -> tuple[float, float]:
    """(learning rate, beta1 or momentum) of a step in [0, total)."""
    beta = config.betas[0]
    if config.schedule == "onecycle":
        peak = max(config.pct * total, 1e-9)
        low = config.lr / config.div
        if step < peak:
            return _cosine(low, config.lr, step / peak), _cosine(config.moms[0], config.moms[1], step / peak)
        share = (step - peak) / max(total - peak, 1e-9)
        return _cosine(config.lr, low / 1e4, share), _cosine(config.moms[1], config.moms[0], share)
    warm = config.warmup * total
    if step < warm:
        return config.lr * (step + 1) / (warm + 1), beta
    if config.schedule == "constant":
        return config.lr, beta
    return _cosine(config.lr, config.lr * config.final, (step - warm) / max(total - warm, 1e-9)), beta


def set_schedule(optimizer: torch.optim.Optimizer, rate: float, beta: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
        if "betas" in group:
            group["betas"] = (beta, group["betas"][1])
        else:
            group["momentum"] = beta


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> torch.Tensor:
    """Clip to a total norm and return the norm before clipping; a limit of 0 only measures."""
    return nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else float("inf"), foreach=True)
