"""What a detector returns for one scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Detections:
    """Boxes found in one scan, by descending score.

    Attributes:
        boxes: ``(K, 7)`` (cx, cy, cz, dx, dy, dz, yaw) metres and radians, or ``(K, 9)`` with (vx, vy) in m/s; float32.
        scores: ``(K,)`` float32 in [0, 1].
        labels: ``(K,)`` int64 indices into the detector's ``class_names``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.ndim != 2 or self.boxes.shape[1] not in (7, 9) or self.scores.shape != (count,) or self.labels.shape != (count,):
            raise ValueError(
                "Detections expected boxes (K, 7 or 9), scores (K,) and labels (K,), "
                f"got {tuple(self.boxes.shape)}, {tuple(self.scores.shape)} and {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Tensor | slice) -> Detections:
        """The detections at the given rows (bool mask, int64 index or slice)."""
        return Detections(boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])

    def to(self, device: torch.device | str) -> Detections:
        return Detections(boxes=self.boxes.to(device), scores=self.scores.to(device), labels=self.labels.to(device))

    @staticmethod
    def merge(parts: Sequence[Detections]) -> Detections:
        """The detections of several parts (heads, crops) of the same scan, by descending score (stable).

        Raises:
            ValueError: no parts, or parts of which only some carry a velocity.
        """
        if not parts:
            raise ValueError("Detections.merge expected at least one part, got none")
        if len({part.boxes.shape[1] for part in parts}) > 1:
            raise ValueError(f"Detections.merge expected parts with equally many box columns, got {[part.boxes.shape[1] for part in parts]}")
        scores = torch.cat([part.scores for part in parts])
        order = scores.argsort(descending=True, stable=True)
        return Detections(
            boxes=torch.cat([part.boxes for part in parts])[order],
            scores=scores[order],
            labels=torch.cat([part.labels for part in parts])[order],
        )
