"""Contrastive mutual information machine: an auto-encoder whose codes also stand apart, without a second view (cMIM)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import check_samples, dots, own_rows, unit


def contrastive_factor(latents: Tensor, *, temperature: float) -> Tensor:
    """``(N,)`` ``log p_i = log( e_ii / (e_ii + mean_{j != i} e_ij) )``, ``e_ij = exp(cos(z_i, z_j) / t)``, j over the samples of all ranks.

    The code is its own positive, so no augmentation is needed; the mean (not the sum) over negatives makes the value independent of how
    many there are.

    Args:
        latents: ``(N, D)`` z, one draw of each sample's code.
        temperature: t > 0.

    Raises:
        ValueError: the shape, a temperature that is not positive, fewer than two samples over all ranks.

    Source: Livne, "cMIM: A Contrastive Mutual Information Framework", 2025, section 2.2.
    """
    if latents.ndim != 2:
        raise ValueError(f"contrastive_factor expected latents (N, D), got {tuple(latents.shape)}")
    check_temperature(temperature)
    own, samples = own_rows(latents)
    check_samples("contrastive_factor", samples)
    z = unit(latents)
    itself = torch.arange(samples, device=own.device) == own[:, None]  # [N, M]
    others = (dots(z, gather_rows(z)) / temperature).masked_fill(itself, -torch.inf).logsumexp(dim=1) - math.log(samples - 1)
    return -torch.nn.functional.softplus(others - 1 / temperature)  # cos(z_i, z_i) = 1


def contrastive_mim(reconstruction: Tensor, posterior: Tensor, prior: Tensor, latents: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean over samples of ``-( log p(x|z) + log p_contrast(z) + (log q(z|x) + log p(z)) / 2 )``.

    Without the second term this is A-MIM, the asymmetric mutual information machine.

    Args:
        reconstruction: ``(N,)`` log p(x_i | z_i) of the decoder. posterior: ``(N,)`` log q(z_i | x_i) of the encoder.
        prior: ``(N,)`` log p(z_i).
        latents: ``(N, D)`` z_i, drawn from the posterior with gradient (reparameterised).
        temperature: of :func:`contrastive_factor`.

    Returns:
        Scalar. Averaged over ranks it is the loss of the global batch.

    Source: Livne, 2025, section 2.2; Livne et al., "MIM: Mutual Information Machine", 2019.
    """
    if not reconstruction.shape == posterior.shape == prior.shape == latents.shape[:1]:
        shapes = [tuple(x.shape) for x in (reconstruction, posterior, prior, latents)]
        raise ValueError(f"contrastive_mim expected three log-likelihoods (N,) and latents (N, D), got {shapes}")
    log_p = reconstruction + contrastive_factor(latents, temperature=temperature) + (posterior + prior) / 2
    return mean_over_ranks(-log_p.sum(), len(latents))
