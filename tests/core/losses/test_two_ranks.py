"""Two ranks with unequal shares give the loss and the gradient of the one-process global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.core.losses.rank_jobs import finish, start

SCRIPT = Path(__file__).with_name("two_ranks.py")
NAMES = (
    "info_nce",
    "info_nce symmetric",
    "point-level region",
    "region-aware point",
    "chamfer l2",
    "chamfer l1",
    "occupancy",
    "occupancy balanced",
    "smooth l1",
    "token mse",
    "token mse weighted",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    jobs = [start(SCRIPT, folder / "one.pt", 0, 1), start(SCRIPT, folder / "two.pt", 0, 2), start(SCRIPT, folder / "two.pt", 1, 2)]
    finish(jobs)
    return torch.load(folder / "one.pt"), torch.load(folder / "two.pt")


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_the_global_batch(results, name):
    one, two = results
    assert set(one) == set(NAMES)
    torch.testing.assert_close(two[name][0], one[name][0], atol=1e-6, rtol=1e-6)
    assert one[name][1].abs().max() > 1e-3
    torch.testing.assert_close(two[name][1], one[name][1], atol=1e-6, rtol=1e-5)
