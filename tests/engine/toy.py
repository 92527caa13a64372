"""A method and samples small enough to train in milliseconds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suite3d.engine.task import RunConfig, Task, TrainConfig
from suite3d.output import Output
from suite3d.source import BadSample


@dataclass
class ToyBatch:
    values: Tensor
    names: list[str]
    seeds: list[int]

    def to(self, device: Any) -> ToyBatch:
        return ToyBatch(self.values.to(device), self.names, self.seeds)


class ToySource:
    """Noisy vectors; samples in ``broken`` raise, those in ``poison`` are NaN. ``pause``: seconds a read takes."""

    pause = 0.0

    def __init__(self, length: int = 12, broken: tuple[int, ...] = (), poison: tuple[int, ...] = ()) -> None:
        self.length, self.broken, self.poison = length, broken, poison

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"sample{index}"

    def get(self, index: int, rng: np.random.Generator) -> tuple[str, Any]:
        time.sleep(self.pause)
        if index in self.broken:
            raise BadSample(self.name(index), "truncated")
        value = rng.standard_normal(8).astype(np.float32) + index
        return self.name(index), value * np.nan if index in self.poison else value

    def collate(self, samples: list[tuple[str, Any]], seeds: list[int]) -> ToyBatch:
        return ToyBatch(torch.from_numpy(np.stack([value for _, value in samples])), [name for name, _ in samples], seeds)


class ToyMethod(nn.Module):
    """Autoencoder with dropout, so that a resume must also restore the random state."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 4)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 8))

    def forward(self, batch: ToyBatch) -> Output:
        features = self.encoder(batch.values)
        loss = (self.head(features) - batch.values).square().mean()
        return Output(loss=loss, metrics={"reconstruction": loss.detach()}, features=features.detach())


@dataclass(kw_only=True)
class ToyRecipe:
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=12, workers=0, device="cpu", log_every=1, save_every=4))
    run: RunConfig = field(default_factory=RunConfig)
    length: int = 12

    def task(self) -> Task:
        return Task(model=ToyMethod(), train=ToySource(self.length), provenance={"labels": "none"})


def main(path: str, steps: int, pause: float = 0.0) -> None:
    """Entry point of the killed and the distributed runs."""
    from suite3d.recipes import run

    ToySource.pause = pause
    recipe = ToyRecipe()
    recipe.train.steps = steps
    recipe.run.dir = Path(path)
    run(recipe)


if __name__ == "__main__":
    import sys

    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
