"""The pixel target of masked autoencoders on clips and images, and the squared error on it."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks


def normalised_patches(patches: Tensor, *, channels: int, eps: Tensor | float = 1e-6) -> Tensor:
    """Each patch normalised channel by channel, ``(x - mean) / (std + eps)``, the variance unbiased (VideoMAE's target).

    Args:
        patches: ``(B, M, C * K)`` pixels in the order (channel, pixel), as :func:`suite3d.nn.patch_embed.gather_patches` yields them.
        channels: C.
        eps: scalar, or ``(C,)``. For pixels that were divided by ``std_c`` before, ``1e-6 / std_c`` gives exactly what 1e-6 gives on the
            pixels in [0, 1]: the affine map cancels, so nothing has to be un-normalised.

    Returns:
        ``(B, M, K * C)`` float32 in the order (pixel, channel): the channel runs fastest, unlike in the patch embedding's weight.

    Source: Tong et al., "VideoMAE", NeurIPS 2022 (per-patch normalisation of He et al., "MAE", CVPR 2022, section 3).
    """
    if patches.shape[-1] % channels:
        raise ValueError(f"normalised_patches expected patches of a multiple of {channels} values, got {patches.shape[-1]}")
    pixels = rearrange(patches.float(), "b m (c k) -> b m c k", c=channels)
    centred, variance = _centred(pixels)
    eps = eps.float()[:, None] if isinstance(eps, Tensor) else eps
    return rearrange(centred / (variance.sqrt() + eps), "b m c k -> b m (k c)")


def jointly_normalised_patches(patches: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Each patch normalised over all its values together, ``(x - mean) / sqrt(var + eps)``, the variance unbiased (MAE's target).

    ``patches (B, M, K)`` in any order, which the result keeps, float32. Source: He et al., "MAE", CVPR 2022, section 3.
    """
    centred, variance = _centred(patches.float())
    return centred / (variance + eps).sqrt()


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """``(..., K)`` minus its mean over the last axis, and its unbiased variance ``(..., 1)``, in two passes: half the time on a CPU of
    ``var_mean``, whose one pass is not vectorised."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred, centred.square().sum(dim=-1, keepdim=True) / (x.shape[-1] - 1)


def patch_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation over the last axis, kept: ``(..., K)`` -> ``(..., 1)`` twice."""
    variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
    return mean, variance.sqrt()


def token_mse(predicted: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Mean over tokens of the mean squared error of a token's values.

        L = sum_m w_m * mean_k (p_mk - t_mk)^2 / sum_m w_m

    Args:
        predicted, target: ``(B, M, K)``.
        weight: ``(B, M)`` weight of each token; None = 1.

    Returns:
        Scalar float32; averaged over ranks it is the (weighted) mean over all ranks' tokens.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"token_mse expected one shape, got {tuple(predicted.shape)} and {tuple(target.shape)}")
    error = (predicted.float() - target.float()).square().mean(dim=-1)  # [B, M]
    if weight is None:
        return mean_over_ranks(error.sum(), error.numel())
    weight = weight.float()
    return mean_over_ranks((error * weight).sum(), weight.sum())
