"""Decoupled contrast: the positive pair is left out of the denominator, so that its gradient does not fade in small batches."""

from __future__ import annotations

from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.log_partition import log_partition
from suite3d.losses.rows import total_over_ranks, two_views


def decoupled_contrast(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Mean over all 2M views z_i of ``-z_i.z_i' / t + log sum_{k not of i's sample} exp(z_i.z_k / t)``, z_i' the other view of the sample.

    k runs over both views of the other samples of all ranks; z are scaled to unit length.

    Args:
        first, second: ``(N, D)``; row i of both comes from sample i. N may differ between ranks.
        temperature: t > 0.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes that differ, a temperature that is not positive, fewer than two samples over all ranks.

    Source: Yeh et al., "Decoupled Contrastive Learning" (DCL), ECCV 2022, equation 6.
    """
    positive, repulsion, _ = _terms(first, second, temperature)
    return mean_over_ranks((repulsion - positive).sum(), len(positive))


def weighted_decoupled_contrast(first: Tensor, second: Tensor, *, temperature: float, sigma: float = 0.5) -> Tensor:
    """DCLW: the attraction of sample i is weighted by ``w_i = 2 - exp(z_i.z_i' / sigma) / mean_j exp(z_j.z_j' / sigma)``.

    Pairs that are still far apart weigh more; the weights average to 1 over the samples of all ranks.

    Args and errors as :func:`decoupled_contrast`; ``sigma`` > 0 is the width of the weighting.

    Source: Yeh et al., ECCV 2022, section 3.4 (negative von Mises-Fisher weighting).
    """
    check_temperature(sigma)
    positive, repulsion, samples = _terms(first, second, temperature)
    height = (positive * (temperature / sigma)).exp()  # [2N]
    weight = 2 - height / (total_over_ranks(height.sum()) / (2 * samples))
    return mean_over_ranks((repulsion - weight * positive).sum(), len(positive))


def _terms(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor, int]:
    """Similarities of the positives (2N,), log of the sums over negatives (2N,), samples over all ranks."""
    check_temperature(temperature)
    pair = two_views("decoupled_contrast", first, second, temperature=temperature)
    return pair.positive, log_partition(pair.anchors, pair.views, leave_out=(pair.own, pair.sample)), pair.samples
