"""``suite3d embed RUN OUT.npz`` for object runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from suite3d.config import ConfigError
from suite3d.engine.distributed import pick_device
from suite3d.evaluate.embed import check_target, write_embedding
from suite3d.pointcloud.data.objects.source import ObjectSource
from suite3d.pointcloud.recipes.objects.data import build_objects, describe_objects
from suite3d.pointcloud.recipes.objects.evaluate import FEATURES, extract_objects, frozen_config, load_frozen
from suite3d.pointcloud.recipes.objects.probe import plain_view


def embed_objects(run: Path, out: Path, overrides: Sequence[str]) -> str:
    """Features of every training object of ``data`` (by default the run's). Raises ConfigError."""
    check_target(out)
    config = frozen_config(run, overrides)
    device = pick_device(config.device)
    encoder = load_frozen(run).to(device)
    objects = build_objects(config.data, channels=encoder.config.channels)
    source = ObjectSource(objects, [plain_view(config.augment.points)], channels=encoder.config.channels)
    try:
        found = extract_objects(encoder, source, device=device, batch=config.batch, workers=config.workers)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    protocol = {"features": FEATURES, "points": config.augment.points, "data": describe_objects(config.data), "weights": str(run)}
    return write_embedding(out, found, objects.classes, kind="objects", protocol=protocol)
