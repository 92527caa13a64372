"""``suite3d embed RUN OUT.npz`` for video runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from suite3d.engine.distributed import pick_device
from suite3d.evaluate.embed import check_target, write_embedding
from suite3d.video.recipes.data import build_list
from suite3d.video.recipes.frozen import frozen_config
from suite3d.video.recipes.frozen_encoder import load_frozen
from suite3d.video.recipes.testing import loader_workers, make_source
from suite3d.video.tasks.extract import Extractor


def embed_videos(run: Path, out: Path, overrides: Sequence[str]) -> str:
    """Mean over the tokens of ``clips x crops`` even views of every video of ``data`` (by default the run's). Raises ConfigError."""
    check_target(out)
    config = frozen_config(run, overrides)
    videos = build_list(config.data)
    encoder = load_frozen(run, (config.data.frames, config.augment.size, config.augment.size))
    workers = loader_workers(config.workers)
    extractor = Extractor(encoder, device=pick_device(config.device), precision=config.precision, batch=config.batch, workers=workers)
    source = make_source(videos.items, config.data, config.augment, frames=config.frames, test=True, windows=config.clips, repeats=config.crops)
    found = extractor.pooled(source, [source.name(index) for index in range(len(source))])
    protocol = {
        "features": f"frozen encoder, mean over all tokens and {config.clips} x {config.crops} views of a video",
        "pixels": f"{config.data.frames} frames of {config.augment.size} x {config.augment.size}",
        "weights": str(run),
    }
    return write_embedding(out, found, videos.classes, kind="videos", protocol=protocol)
