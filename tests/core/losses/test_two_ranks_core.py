"""Two ranks with unequal shares give the loss and the gradient of the one-process global batch, for every loss of two_ranks_core.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.core.losses.rank_jobs import SHARES, finish, start
from tests.core.losses.two_ranks_core import inputs, losses, main

SCRIPT = Path(__file__).with_name("two_ranks_core.py")
SINGLE = {"swav", "dino", "dino sinkhorn", "bag of words"}  # their targets are computed in float32
NAMES = re.findall(r'^        "([a-z0-9 ]+)": ', SCRIPT.read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    jobs = [start(SCRIPT, folder / "two.pt", 0, 2), start(SCRIPT, folder / "two.pt", 1, 2)]
    main(str(folder / "one.pt"), "", 0, 1)
    finish(jobs)
    return torch.load(folder / "one.pt"), torch.load(folder / "two.pt")


def test_every_loss_is_compared(results):
    assert set(results[0]) == set(results[1]) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_the_global_batch(results, name):
    one, two = (result[name] for result in results)
    torch.testing.assert_close(two[0], one[0], atol=1e-6 if name in SINGLE else 1e-9, rtol=1e-7)
    assert one[1].abs().max() > 1e-4
    torch.testing.assert_close(two[1], one[1], atol=1e-6 if name in SINGLE else 1e-9, rtol=1e-7)


def test_autocast_changes_nothing():
    """Half precision may compute the features, never the cosines, exponentials and moments of a loss."""
    values = []
    for enabled in (False, True):
        batch = inputs(slice(0, sum(SHARES)), torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).requires_grad_())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values.append({name: loss.item() for name, loss in losses(batch).items()})
    assert values[0] == values[1]
