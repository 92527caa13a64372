"""``suite3d evaluate RUN propagation``: the objects of a video's first frame followed by frozen features of each frame by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from suite3d.config import ConfigError
from suite3d.evaluate.frame_encoder import FrameEncoder
from suite3d.evaluate.probes import spread
from suite3d.evaluate.propagation import PropagationConfig
from suite3d.evaluate.protocols import Entry
from suite3d.evaluate.tracks import MaskedVideo, score_tracks
from suite3d.image.data.davis import davis_videos
from suite3d.image.views import ViewConfig
from suite3d.nn.vit import VisionTransformer


@dataclass(kw_only=True)
class TrackingConfig(PropagationConfig):
    """Label propagation and its videos.

    Attributes:
        root: folder in the layout of DAVIS; empty = procedural videos, where the run is of videos.
        split: of the folder's lists.
        videos: at most, evenly spread over the set.
        size: short side a frame is brought to, pixels; 0 = that of the run.
    """

    root: Path = Path("")
    split: str = "val"
    videos: int = 50
    size: int = 0


def labelled_tracks(config: TrackingConfig) -> list[MaskedVideo]:
    """Videos of ``config.root``. Raises ConfigError where there are none."""
    if config.root == Path(""):
        raise ConfigError("propagation needs videos with masks: propagation.root=FOLDER with JPEGImages and Annotations as in DAVIS")
    try:
        return davis_videos(config.root, config.split)
    except (ValueError, OSError) as error:
        raise ConfigError(f"propagation: {error}") from error


def propagate(
    encoder: nn.Module,
    videos: Sequence[MaskedVideo],
    config: TrackingConfig,
    *,
    augment: ViewConfig,
    data: str,
    device: torch.device,
    still: int = 0,
    multiple: int = 32,
) -> Entry:
    """Scores of one encoder.

    Args:
        encoder: of pictures or clips.
        videos: with masks. data: where they are from, in words.
        augment: size, mean and deviation of the pixels.
        still, multiple: see :class:`suite3d.evaluate.frame_encoder.FrameEncoder`.

    Raises:
        ValueError: no video could be scored, or the encoder gives no map of tokens.
    """
    size = config.size or augment.size
    encode = FrameEncoder(encoder=encoder, size=size, mean=augment.mean, std=augment.std, still=still, multiple=multiple, device=device)
    chosen = spread(list(videos), config.videos)
    entry = score_tracks(chosen, encode, config)
    clips = still or (isinstance(encoder, VisionTransformer) and encoder.patch[0] > 1)
    seen = "as a clip that stands still, of one token in time" if clips else "as a picture"
    entry["protocol"] |= {"frames": f"short side {size} pixels, aspect kept; each {seen}", "data": f"{data}; {len(chosen)} of {len(videos)} videos"}
    return entry
