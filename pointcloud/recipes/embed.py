"""``suite3d embed RUN OUT.npz`` for LiDAR runs: one vector a scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from suite3d.config import ConfigError, load_config, stored_parts
from suite3d.engine.distributed import pick_device
from suite3d.engine.once import each_once
from suite3d.evaluate.embed import check_target, write_embedding
from suite3d.evaluate.features import FeatureSet
from suite3d.interop.load import read_checkpoint
from suite3d.ops import scatter_mean
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.data.source import FrameSource
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.pointcloud.encoders.build import build_encoder
from suite3d.pointcloud.encoders.config import LidarEncoderConfig
from suite3d.pointcloud.recipes.data import LidarDataConfig, build_dataset, describe_data


@dataclass(kw_only=True)
class EmbedScansConfig:
    """Features of scans.

    Attributes:
        data: the scans; by default those of the run.
        encoder: of the run; not to be changed, except for the range that is looked at.
        batch, workers, device: of the encoder's pass over the scans.
    """

    data: LidarDataConfig = field(default_factory=LidarDataConfig)
    encoder: LidarEncoderConfig = field(default_factory=LidarEncoderConfig)
    batch: int = 4
    workers: int = 0
    device: str = "auto"


def embed_scans(run: Path, out: Path, overrides: Sequence[str]) -> str:
    """Features of every training scan of ``data`` (by default the run's), no augmentation; without boxes all labels are -1.

    Raises:
        ConfigError: no run with a LiDAR encoder, weights that do not fit, wrong overrides, or no scan that can be read.
    """
    check_target(out)
    file = run / "encoder.safetensors"
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; expected a run directory with a finished or saved training")
    try:
        base = load_config(EmbedScansConfig, overrides=stored_parts(run / "config.yaml", ("data", "encoder")))
    except ConfigError as error:
        raise ConfigError(f"{run} was not trained on scans: {error}") from error
    config: EmbedScansConfig = load_config(base, overrides=overrides)  # type: ignore[arg-type]
    device = pick_device(config.device)
    try:
        encoder = build_encoder(config.encoder)
        encoder.load_state_dict(read_checkpoint(file))
        dataset = build_dataset(config.data)
        source = FrameSource(dataset, channels=config.encoder.channels, point_range=config.encoder.point_range)
        found = extract_scans(encoder.eval().requires_grad_(False).to(device), source, device=device, batch=config.batch, workers=config.workers)
    except (ValueError, RuntimeError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{run}: {error}") from error
    protocol = {
        "features": f"frozen {type(encoder).__name__}; mean over the occupied cells of every level ({list(encoder.level_dims)} channels), joined",
        "points": f"no augmentation, range {list(config.encoder.point_range)} m, channels {list(config.encoder.channels)}",
        "data": f"{describe_data(config.data)}, split {config.data.split}",
        "weights": str(run),
    }
    return write_embedding(out, found, (), kind="scans", protocol=protocol)


@torch.no_grad()
def extract_scans(encoder: LidarEncoder, source: FrameSource, *, device: torch.device, batch: int, workers: int) -> FeatureSet:
    """:func:`scan_features` of every scan, in order; broken ones are left out and named. Raises ValueError where none can be read."""
    features, names, skipped = [], [], []
    for part in each_once(source, range(len(source)), batch_size=batch, workers=workers):
        skipped += part.skipped
        if part.batch is not None:
            features.append(scan_features(encoder, part.batch.to(device)).float().cpu())
            names += part.batch.names
    if not names:
        raise ValueError(f"no scan could be read; the first problems: {skipped[:3]}")
    labels = torch.full((len(names),), -1)
    return FeatureSet(features=torch.cat(features), labels=labels, names=names, groups=names, skipped=skipped)


def scan_features(encoder: LidarEncoder, batch: PointBatch) -> Tensor:
    """``(B, sum of level_dims)``: for each scan the mean over the occupied cells of every level, finest first; 0 where a level has none."""
    levels = encoder(batch).levels
    return torch.cat([scatter_mean(level.feats, level.coords[:, 0].long(), batch.batch_size) for level in levels], dim=1)
