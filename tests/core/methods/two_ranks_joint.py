"""Script of test_two_ranks_joint.py: a few steps under DistributedDataParallel. OUT STORE RANK WORLD; WORLD=1 trains on the whole batch."""

from __future__ import annotations

import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from suite3d.methods.lejepa import LeJEPA, LeJEPAConfig
from suite3d.methods.moco import MoCo, MoCoConfig
from suite3d.methods.swav import SwAV, SwAVConfig
from tests.core.losses.rank_jobs import group
from tests.core.methods.joint import MULTI, TWO, batch, resnet, vit

PICTURES, STEPS = 4, 4
METHODS = {
    # no batch norm: two ranks train as one does
    "moco": lambda: MoCo(vit(), MoCoConfig(hidden=16, dim=8, queue=18, momentum=0.9), generator=torch.Generator().manual_seed(1)),
    # batch norm is each rank's own: only their state must agree
    "moco resnet": lambda: MoCo(resnet(), MoCoConfig(hidden=16, dim=8, queue=18, momentum=0.9), generator=torch.Generator().manual_seed(1)),
    "swav": lambda: SwAV(vit(any_size=True), SwAVConfig(prototypes=5, hidden=16, dim=8, frozen_steps=2, queue=12, queue_start=0.5)),
    "lejepa": lambda: LeJEPA(vit(any_size=True), LeJEPAConfig(hidden=16, dim=8, slices=8)),
}


def run(name: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Losses of the steps (averaged over ranks) and the state afterwards, without what batch norm counts."""
    torch.manual_seed(0)
    model = METHODS[name]()
    forward = DistributedDataParallel(model, find_unused_parameters=True) if world > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses, prototypes = [], []
    for step in range(STEPS):
        rows = PICTURES if world > 1 else 2 * PICTURES
        output = forward(batch(rows, TWO if "moco" in name else MULTI, start=(2 * step + rank) * PICTURES))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        model.after_step(step, STEPS)
        losses.append(output.loss.detach())
        prototypes.append(model.prototypes.weight.detach().clone() if name == "swav" else torch.zeros(()))
    total = torch.stack(losses)
    if world > 1:
        torch.distributed.all_reduce(total)
    kept = {key: value for key, value in model.state_dict().items() if "running_" not in key}
    return {"losses": total / world, "moved": torch.stack([(after != prototypes[0]).any() for after in prototypes]), **kept}


def main(out: str, store: str, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    with group(store, rank, world):
        results = {name: run(name, rank, world) for name in METHODS}
    torch.save(results, f"{out}.{rank}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
