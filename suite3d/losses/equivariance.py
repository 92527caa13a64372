"""Features that follow a transformation instead of forgetting it: name it, or predict where it takes the feature."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import check_samples, full_precision, own_rows


def equivariance_by_classification(logits: Sequence[Tensor], applied: Tensor) -> Tensor:
    """Sum over kinds of transformation f of the mean over samples of the cross-entropy of the one that was applied.

    One kind with four quarter turns is RotNet; added to an invariant loss, it is E-SSL.

    Args:
        logits: F tensors ``(N, C_f)``, each over the C_f transformations of a kind. N may differ between ranks.
        applied: ``(N, F)`` int64, which one each sample went through; -1 = none of this kind, left out of its mean.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes, no kind at all, a class that the logits do not have.

    Source: Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations" (RotNet), ICLR 2018, equation 2;
    Dangovski et al., "Equivariant Self-Supervised Learning" (E-SSL), ICLR 2022, equation 2.
    """
    if not logits or applied.ndim != 2 or any(part.ndim != 2 or len(part) != len(applied) for part in logits) or len(logits) != applied.shape[1]:
        shapes = [tuple(x.shape) for x in (*logits, applied)]
        raise ValueError(f"equivariance_by_classification expected F logits (N, C_f) and applied (N, F), got {shapes}")
    total = logits[0].new_zeros(())
    for part, answer in zip(logits, applied.unbind(1), strict=True):
        if len(answer) and int(answer.max()) >= part.shape[1]:
            raise ValueError(f"equivariance_by_classification expected classes below {part.shape[1]}, got {int(answer.max())}")
        losses = F.cross_entropy(full_precision(part), answer, reduction="sum", ignore_index=-1)
        total = total + mean_over_ranks(losses, (answer >= 0).sum())
    return total


def equivariance_by_contrast(first: Tensor, second: Tensor, *, equivariant: int | None = None, temperature: float = 1.0) -> Tensor:
    """An unknown transformation, estimated as a linear map from examples in feature space, must take a query to where it really goes.

    Each group holds P pairs (x, x') that went through the same transformation. From all but the last pair ``R = argmin_R sum |R x - x'|^2``;
    the last x is the query:

        mean over groups of -log( exp(-|R x - x'|^2 / t) / sum_{x''} exp(-|R x - x''|^2 / t) )

    with x'' the last pairs' x' of all groups of all ranks.

    Args:
        first, second: ``(G, P, D)``. G may differ between ranks.
        equivariant: the first so many channels move with R, the others should stay (R is the identity there); None = all move.
            P - 1 must be at least this number, else R is not determined.
        temperature: t > 0; the paper has 1.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes, too few pairs in a group, fewer than two groups over all ranks.

    Source: Schmidt et al., "Equivariance by Contrast", NeurIPS 2025, equations 2 to 5.
    """
    if first.ndim != 3 or first.shape != second.shape:
        raise ValueError(f"equivariance_by_contrast expected two tensors of one shape (G, P, D), got {tuple(first.shape)} and {tuple(second.shape)}")
    check_temperature(temperature)
    channels = first.shape[2] if equivariant is None else equivariant
    if not 1 <= channels <= first.shape[2] or first.shape[1] - 1 < channels:
        raise ValueError(
            f"equivariance_by_contrast expected 1 to {first.shape[2]} moving channels and as many example pairs, "
            f"got {channels} channels and {first.shape[1] - 1} examples"
        )
    own, groups = own_rows(first)
    check_samples("equivariance_by_contrast", groups)
    x, y = full_precision(first), full_precision(second)
    with torch.autocast(x.device.type, enabled=False):
        moved = torch.linalg.lstsq(x[:, :-1, :channels], y[:, :-1, :channels]).solution  # [G, C, C] R transposed
        predicted = torch.cat(((x[:, -1:, :channels] @ moved)[:, 0], x[:, -1, channels:]), dim=1)  # [G, D]
    everyone = gather_rows(y[:, -1].contiguous())  # [M, D]
    distances = (predicted[:, None] - everyone).square().sum(dim=2)  # [G, M]
    return mean_over_ranks(F.cross_entropy(-distances / temperature, own, reduction="sum"), len(x))
