"""Script of test_two_ranks_contrastive.py; called like two_ranks.py."""

from __future__ import annotations

import sys

import torch
from torch import nn

from suite3d.losses.margin_ranking import margin_ranking_loss
from suite3d.losses.masked_l1 import masked_l1
from suite3d.losses.nt_xent import nt_xent
from suite3d.losses.queue_info_nce import queue_info_nce
from suite3d.losses.sinkhorn import sinkhorn, swapped_prediction
from suite3d.nn.momentum import run_shuffled
from suite3d.nn.queue import FeatureQueue
from tests.core.losses.rank_jobs import SHARES, gradients, group


class Spy(nn.Module):
    """Squares its rows and remembers them."""

    def forward(self, rows):
        self.seen = rows
        return rows**2, rows.sum(1)


def losses(rows: slice, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, sum(SHARES), 6, generator=generator)
    queue, prototypes = torch.randn(2, 11, 6, generator=generator)
    a, b = x[rows] @ weight, y[rows] @ weight
    scores = [nn.functional.normalize(z, dim=1) @ nn.functional.normalize(prototypes, dim=1).T for z in (a, b)]
    return {
        "nt_xent": nt_xent(a, b, temperature=0.2),
        "queue": queue_info_nce(a, b, queue, temperature=0.2),
        "margin": margin_ranking_loss(a[:, 0], b[:, 0]),
        "masked l1": masked_l1(a[:, None], b[:, None], y[rows, :1] > 0),
        "swapped": swapped_prediction(scores[0], scores[1])[0],
    }


def others(rows: slice) -> dict[str, torch.Tensor]:
    """Results of this rank's rows that are no losses: all but the last must be those of the whole batch."""
    generator = torch.Generator().manual_seed(5)
    scores, features = torch.rand(sum(SHARES), 7, generator=generator), torch.randn(sum(SHARES), 3, generator=generator)
    queue = FeatureQueue(20, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        queue.push(features[rows])
    torch.manual_seed(int(rows.start))  # ranks draw differently: the permutation must still be one
    spy = Spy()
    squares, sums = run_shuffled(spy, features[rows])
    return {
        "sinkhorn": sinkhorn(scores[rows]),
        "queue": queue.rows,
        "position": queue.position[None],
        "squares": squares,
        "sums": sums,
        "spied": spy.seen,
    }


def main(out: str, store: str, rank: int, world: int) -> None:
    with group(store, rank, world) as rows:
        results = gradients(lambda weight: losses(rows, weight), world)
        torch.save({"losses": results, "others": others(rows)}, f"{out}.{rank}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
