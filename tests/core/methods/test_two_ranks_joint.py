"""On two ranks the queues, averages, prototypes and directions stay the same everywhere; without batch norm two ranks train as one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.core.losses.rank_jobs import finish, start
from tests.core.methods.two_ranks_joint import METHODS, STEPS, run

SCRIPT = Path(__file__).with_name("two_ranks_joint.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "two.pt"
    finish([start(SCRIPT, out, 0, 2), start(SCRIPT, out, 1, 2)])
    return [torch.load(f"{out}.{rank}") for rank in (0, 1)]


@pytest.mark.parametrize("name", METHODS)
def test_ranks_agree(ranks, name):
    first, second = (results[name] for results in ranks)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_two_ranks_are_one_batch(ranks):
    one, two = run("moco", 0, 1), ranks[0]["moco"]
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-4, msg=key)


def test_prototypes_wait_and_queues_fill_on_every_rank(ranks):
    swav = ranks[0]["swav"]
    assert swav["moved"].tolist() == [False, False, True, True], "frozen for two steps, found by the optimiser after them"
    assert int(swav["queued"]) == 8 * STEPS and int(swav["queues.0.position"]) == 8 * STEPS % 12
