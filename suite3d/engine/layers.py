"""Layer-wise learning rates of fine-tuning: the earlier a layer of the encoder, the smaller its steps.

Clark et al., "ELECTRA", ICLR 2020, section 3.1; for vision transformers as in BEiT (Bao et al., ICLR 2022), MAE and VideoMAE:
layer 0 is what stands before the blocks (patch embedding, positions, class token), block i is layer i + 1, and what follows the blocks
(last norm, pooling, head) is layer L + 1, which learns at the full rate. Layer l learns at ``decay ** (L + 1 - l)`` of it.
"""

from __future__ import annotations

from torch import nn


def layer_ids(encoder: nn.Module) -> tuple[dict[str, int], int]:
    """Layer of every parameter of an encoder, and the number of its blocks L.

    What the encoder registers before its ``blocks`` is layer 0, as are its own parameters (tokens); what it registers after them is L + 1.

    Raises:
        ValueError: an encoder without a ``ModuleList`` called ``blocks``.
    """
    blocks = getattr(encoder, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        raise ValueError(f"layer decay needs an encoder whose layers stand in a list `blocks`, {type(encoder).__name__} has none: set layer_decay=1")
    depth = len(blocks)
    children = [name for name, _ in encoder.named_children()]
    before = set(children[: children.index("blocks")])
    ids = {}
    for name, _ in encoder.named_parameters():
        first, _, rest = name.partition(".")
        ids[name] = int(rest.partition(".")[0]) + 1 if first == "blocks" else 0 if first in before or not rest else depth + 1
    return ids, depth


def layer_scales(model: nn.Module, decay: float) -> dict[int, float]:
    """``id(parameter)`` -> share of the learning rate, for the parameters of ``model.encoder``.

    Raises:
        ValueError: a decay outside (0, 1], or a model whose encoder has no blocks.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay must lie in (0, 1], got {decay}")
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"layer decay needs a model with an encoder, {type(model).__name__} has none: set layer_decay=1")
    ids, depth = layer_ids(encoder)
    return {id(parameter): decay ** (depth + 1 - ids[name]) for name, parameter in encoder.named_parameters()}
