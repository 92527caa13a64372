"""Plain torch sparse convolution: gather, multiply, add, one kernel offset at a time."""

from __future__ import annotations

from torch import Tensor


def sparse_conv(feats: Tensor, weight: Tensor, bias: Tensor | None, forward_map: Tensor) -> Tensor:
    """``out[o] = bias + sum_k weight[:, k] feats[map[k, o]]``.

    Args:
        feats: ``(V_in, C_in)``.
        weight: ``(C_out, K, C_in)``.
        bias: ``(C_out,)`` or None.
        forward_map: ``(K, V_out)`` int32 input rows, -1 for none.

    Returns:
        ``(V_out, C_out)``.
    """
    out = feats.new_zeros(forward_map.shape[1], len(weight))
    if bias is not None:
        out = out + bias
    for matrix, rows in zip(weight.unbind(dim=1), forward_map, strict=True):
        present = (rows >= 0).nonzero().squeeze(1)
        out = out.index_add(0, present, feats[rows[present].long()] @ matrix.T)
    return out
