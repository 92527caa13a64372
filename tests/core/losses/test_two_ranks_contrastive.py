"""Two ranks with unequal shares: losses, assignments, queue and shuffled keys are those of the one-process global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.core.losses.rank_jobs import finish, start

SCRIPT = Path(__file__).with_name("two_ranks_contrastive.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    jobs = [start(SCRIPT, folder / "one", 0, 1), start(SCRIPT, folder / "two", 0, 2), start(SCRIPT, folder / "two", 1, 2)]
    finish(jobs)
    return [torch.load(folder / name) for name in ("one.0", "two.0", "two.1")]


@pytest.mark.parametrize("name", ["nt_xent", "queue", "margin", "masked l1", "swapped"])
def test_gradients_equal_the_global_batch(results, name):
    one, two = (result["losses"][name] for result in results[:2])
    torch.testing.assert_close(two[0], one[0], atol=1e-6, rtol=1e-6)
    assert one[1].abs().max() > 1e-3
    torch.testing.assert_close(two[1], one[1], atol=1e-6, rtol=1e-5)


def test_sinkhorn_balances_over_all_ranks(results):
    one, first, second = (result["others"]["sinkhorn"] for result in results)
    torch.testing.assert_close(torch.cat([first, second]), one, atol=1e-6, rtol=1e-5)


def test_queues_stay_equal(results):
    one, first, second = (result["others"] for result in results)
    assert torch.equal(first["queue"], one["queue"]) and torch.equal(second["queue"], one["queue"])
    assert int(first["position"]) == int(one["position"]) == 39 % 20


def test_shuffled_keys_come_home(results):
    one, first, second = (result["others"] for result in results)
    for name in ("squares", "sums"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), one[name])
    spied = torch.cat([first["spied"], second["spied"]])
    assert not torch.equal(spied, one["spied"]), "nobody was computed on another rank"
    order = [sorted(map(tuple, rows.tolist())) for rows in (spied, one["spied"])]
    assert order[0] == order[1]
    own = {tuple(row) for row in one["spied"][:5].tolist()}
    assert own != {tuple(row) for row in first["spied"].tolist()}
