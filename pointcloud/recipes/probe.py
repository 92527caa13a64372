"""The online probe of LiDAR pretraining: can a ridge classifier read the object class off the frozen features?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from suite3d.config import ConfigError
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.data.source import FrameSource
from suite3d.pointcloud.detection.evaluate.probe import probe_encoder
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.pointcloud.encoders.config import LidarEncoderConfig
from suite3d.pointcloud.recipes.data import LidarDataConfig, build_dataset
from suite3d.source import BadSample


@dataclass(kw_only=True)
class ProbeConfig:
    """Ridge probe on the encoder's features at occupied voxels.

    Attributes:
        frames: labelled frames used, the first half to fit and the second half to score (whole frames, never shared).
        rows: at most this many voxels of each class per frame.
    """

    frames: int = 16
    rows: int = 256


class BoxProbe:
    """Class of the object that a voxel lies in (background otherwise) from frozen features; balanced accuracy on held-out frames."""

    def __init__(self, source: FrameSource, config: ProbeConfig) -> None:
        self.source, self.config = source, config
        self.description = f"ridge probe on {len(source)} labelled frames, classes background + {list(source.class_names)}"
        self._batches: list[PointBatch] | None = None

    def _load(self) -> list[PointBatch]:
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

    def __call__(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """``{"probe": balanced accuracy, "probe_chance": ...}``; empty when the frames do not allow a score."""
        encoder = model.encoder
        assert isinstance(encoder, LidarEncoder)
        batches = [batch.to(device) for batch in self._load()]
        half = len(batches) // 2
        score = probe_encoder(encoder, batches[:half], batches[half:], classes=len(self.source.class_names), per_class=self.config.rows)
        return {} if score is None else {"probe": score.balanced_accuracy, "probe_chance": score.chance}


def build_probe(config: ProbeConfig, data: LidarDataConfig, encoder: LidarEncoderConfig) -> BoxProbe | None:
    """The probe on validation frames (training frames where there is no validation split), or None without boxes."""
    try:
        dataset = build_dataset(data, validation=True)
    except ConfigError:
        dataset = build_dataset(data)
    labelled = [index for index in range(len(dataset)) if dataset.labelled(index)]
    if len(labelled) < 2:
        return None
    picked = [labelled[i] for i in np.linspace(0, len(labelled) - 1, min(config.frames, len(labelled))).round().astype(int)]
    source = FrameSource(dataset, [], class_names=dataset.class_names, indices=picked, channels=encoder.channels, point_range=encoder.point_range)
    return BoxProbe(source, config)
