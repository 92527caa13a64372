"""The online probe of LiDAR pretraining: can a ridge classifier read the object class off the frozen features?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from suite3d.evaluate.probes import ridge_probe
from suite3d.pointcloud.data.source import FrameSource
from suite3d.pointcloud.encoders.config import LidarEncoderConfig
from suite3d.pointcloud.recipes.data import LidarDataConfig, build_dataset
from suite3d.source import BadSample


@dataclass(kw_only=True)
class ProbeConfig:
    """Ridge probe on the encoder's deepest sparse features.

    Attributes:
        frames: labelled frames used, the first half to fit and the second half to score (whole frames, never shared).
        rows: at most this many features of each class per half.
    """

    frames: int = 16
    rows: int = 1000


class BoxProbe:
    """Class of the object that a deep feature's cell lies in (background otherwise), by ridge regression, balanced accuracy.

    Args:
        source: labelled frames; one half fits, the other scores.
    """

    def __init__(self, source: FrameSource, config: ProbeConfig) -> None:
        self.source, self.config = source, config
        self.description = f"ridge probe on {len(source)} labelled frames, classes background + {list(source.class_names)}"
        self._batches: list[Any] | None = None

    def _load(self) -> list[Any]:
        """Batches of one frame, read once. Broken frames are left out."""
        if self._batches is None:
            self._batches = []
            for index in range(len(self.source)):
                try:
                    sample = self.source.get(index, np.random.default_rng(0))
                except BadSample:
                    continue
                self._batches.append(self.source.collate([sample], [index]))
        return self._batches

    @torch.no_grad()
    def __call__(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """``{"probe": balanced accuracy, "probe_chance": ...}``; empty when the frames hold fewer than two classes."""
        from suite3d.pointcloud.detection.evaluate.probe import box_feature_labels

        encoder: Any = model.encoder
        mode = encoder.training
        encoder.eval()
        halves: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[], []]
        batches = self._load()
        for number, batch in enumerate(batches):
            features = encoder(batch.to(device))
            level, stride = features.levels[-1], features.strides[-1]
            assert batch.boxes is not None and batch.labels is not None
            labels = box_feature_labels(level.coords.cpu(), encoder.grid, stride, batch.boxes, batch.labels)
            halves[number * 2 >= len(batches)].append((level.feats.float().cpu(), labels))
        encoder.train(mode)
        (train, train_labels), (test, test_labels) = (_balanced(half, self.config.rows) for half in halves)
        if len(torch.unique(train_labels)) < 2 or len(torch.unique(test_labels)) < 2:
            return {}
        score = ridge_probe(train, train_labels, test, test_labels, classes=len(self.source.class_names) + 1)
        return {"probe": score.balanced_accuracy, "probe_chance": score.chance}


def _balanced(half: list[tuple[torch.Tensor, torch.Tensor]], limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At most ``limit`` evenly spread rows of each class."""
    features, labels = torch.cat([f for f, _ in half]), torch.cat([l for _, l in half])
    rows = []
    for label in torch.unique(labels):
        mine = torch.nonzero(labels == label).flatten()
        rows.append(mine[torch.linspace(0, len(mine) - 1, min(limit, len(mine))).long()])
    picked = torch.cat(rows)
    return features[picked], labels[picked]


def build_probe(config: ProbeConfig, data: LidarDataConfig, encoder: LidarEncoderConfig) -> BoxProbe | None:
    """The probe on validation frames (training frames where there is no validation split), or None without boxes."""
    try:
        dataset = build_dataset(data, validation=True)
    except (FileNotFoundError, ValueError):
        dataset = build_dataset(data)
    labelled = [index for index in range(len(dataset)) if dataset.labelled(index)]
    if not labelled:
        return None
    picked = [labelled[i] for i in np.linspace(0, len(labelled) - 1, min(config.frames, len(labelled))).round().astype(int)]
    source = FrameSource(dataset, [], class_names=dataset.class_names, indices=picked, channels=encoder.channels, point_range=encoder.point_range)
    return BoxProbe(source, config)
