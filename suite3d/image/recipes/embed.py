"""``suite3d embed RUN OUT.npz`` for image runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from suite3d.engine.distributed import pick_device
from suite3d.evaluate.embed import check_target, write_embedding
from suite3d.image.data.source import ImageSource
from suite3d.image.recipes.data import build_images, describe_images
from suite3d.image.recipes.encoder import load_frozen
from suite3d.image.recipes.evaluate import extract, frozen_config
from suite3d.image.recipes.probe import plain_view
from suite3d.nn.pooling import pooled_features


def embed_images(run: Path, out: Path, overrides: Sequence[str]) -> str:
    """Features of the middle square of every training picture of ``data`` (by default the run's). Raises ConfigError."""
    check_target(out)
    config = frozen_config(run, overrides)
    images = build_images(config.data)
    device = pick_device(config.device)
    encoder = load_frozen(run).to(device)
    source = ImageSource(images, [plain_view(config.augment)])
    found = extract(source, lambda pixels: pooled_features(encoder, pixels), device=device, batch=config.batch, workers=config.workers)
    protocol = {
        "features": "frozen encoder, class token or mean over all places, of the middle square of a picture",
        "pixels": f"{config.augment.size} x {config.augment.size}",
        "data": describe_images(config.data),
        "weights": str(run),
    }
    return write_embedding(out, found, images.classes, kind="pictures", protocol=protocol)
