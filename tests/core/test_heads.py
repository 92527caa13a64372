from __future__ import annotations

import pytest
import torch
from torch import nn

from suite3d.nn.heads import projector


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_projector_is_the_plain_stack(norm):
    torch.manual_seed(0)
    head = projector((5, 7, 3), norm=norm)
    x = torch.randn(11, 5)
    hidden = x @ head[0].weight.T + (head[0].bias if norm == "none" else 0)
    if norm == "batch":
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    if norm == "layer":
        hidden = (hidden - hidden.mean(1, keepdim=True)) / (hidden.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(head(x), hidden.relu() @ head[-1].weight.T + head[-1].bias)


def test_two_widths_are_a_linear_map_and_one_is_refused():
    assert isinstance(projector((4, 2))[0], nn.Linear) and len(projector((4, 2))) == 1
    with pytest.raises(ValueError, match="at least"):
        projector((4,))
