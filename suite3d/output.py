"""What every method returns from a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Output:
    """Result of ``method(batch)``.

    Attributes:
        loss: scalar tensor to minimise, in float32.
        metrics: scalars to log beside the loss (its parts, ratios, counts); detached tensors or numbers.
        features: ``(N, C)`` detached sample of the encoder's features for the collapse monitor and the
            online probe, or None when the method has none to offer at this step.
        visuals: called only when pictures are due; returns named pictures, each either a
            ``(H, W, 3)`` uint8 array, ``(T, H, W, 3)`` uint8 frames of an animation, or a :class:`suite3d.report.bev.BevScene`.
    """

    loss: Tensor
    metrics: dict[str, Tensor | float] = field(default_factory=dict)
    features: Tensor | None = None
    visuals: Callable[[], dict[str, Any]] | None = None
