"""NT-Xent: two views of a sample find one another among the views of all other samples."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.log_partition import log_partition
from suite3d.losses.rows import two_views


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Mean over all 2M views z_i of ``-log( exp(z_i.z_i' / t) / sum_{k != i} exp(z_i.z_k / t) )``, z_i' the other view of the same sample.

    k runs over both views of all samples of all ranks; z are scaled to unit length.

    Args:
        first, second: ``(N, D)``; row i of both comes from sample i. N may differ between ranks.
        temperature: t > 0.

    Returns:
        Scalar float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes that differ, a temperature that is not positive, fewer than two samples over all ranks (no negative).

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR), ICML 2020, equation 1.
    """
    check_temperature(temperature)
    pair = two_views("nt_xent", first, second, temperature=temperature)
    rows = torch.arange(len(pair.views), device=pair.views.device)
    partition = log_partition(pair.anchors, pair.views, leave_out=(pair.itself, rows))
    return mean_over_ranks((partition - pair.positive).sum(), len(pair.anchors))
