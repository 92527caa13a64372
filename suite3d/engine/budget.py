"""What a run will see and how fast it will learn, said once and in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass

from suite3d.config import ConfigError
from suite3d.engine.optim import OptimConfig
from suite3d.engine.task import TrainConfig

REFERENCE_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The three numbers that are confused most.

    Attributes:
        samples_seen: crops the model is trained on: steps x batch x repeats.
        effective_epochs: samples_seen / samples. The papers' epochs count repeats in this way (VideoMAE V2: 300 x 4 = 1200).
        lr_abs: peak learning rate of the run.
        text: one line that says how they come about.
    """

    samples_seen: int
    effective_epochs: float
    lr_abs: float
    text: str


def set_budget(train: TrainConfig, *, base_lr: float, repeats: int, samples: int, kind: str) -> Budget:
    """Set ``train.optim.lr = base_lr * batch_size / 256`` and print the budget (rank 0 only).

    The batch size counts decoded samples: repeats change neither the steps nor the learning rate (VideoMAE V2's rule).

    Args:
        train: is changed, so that the stored configuration holds the absolute rate.
        samples, kind: how many training samples there are, and what to call them ("videos", "images").
        base_lr: rate for a batch of 256; 0 = ``train.optim.lr`` as it is.

    Raises:
        ConfigError: both rates are given.
    """
    rule = "train.optim.lr as given"
    if base_lr > 0:
        absolute = base_lr * train.batch_size / REFERENCE_BATCH
        if train.optim.lr not in (OptimConfig().lr, absolute):
            raise ConfigError(f"base_lr={base_lr:g} and train.optim.lr={train.optim.lr:g} are both given: set base_lr=0 to use train.optim.lr")
        train.optim.lr = absolute
        rule = f"base_lr {base_lr:g} x batch {train.batch_size} / {REFERENCE_BATCH}"
    steps = train.total_steps(samples)
    seen = steps * train.batch_size * repeats
    text = (
        f"{samples} {kind}, batch {train.batch_size} x {repeats} crops, {steps} steps: samples_seen {seen}, "
        f"effective_epochs {seen / samples:.1f}, lr_abs {train.optim.lr:.3g} ({rule})"
    )
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, flush=True)
    return Budget(samples_seen=seen, effective_epochs=seen / samples, lr_abs=train.optim.lr, text=text)
