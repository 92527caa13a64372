"""Videos with masks for ``suite3d evaluate RUN propagation``: a folder in the layout of DAVIS, or the motion set."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from suite3d.evaluate.protocols import Entry
from suite3d.evaluate.tracks import Loaded, MaskedVideo
from suite3d.image.recipes.propagation import TrackingConfig, labelled_tracks, propagate
from suite3d.image.views import ViewConfig
from suite3d.nn.vit import VisionTransformer
from suite3d.video.data.motion import MotionConfig, motion_clip, motion_masks


def motion_tracks(config: MotionConfig) -> list[MaskedVideo]:
    """The validation clips of the motion set with the masks of their shapes, drawn when they are read (no file is written)."""
    return [MaskedVideo(name=f"motion/val/{index:06d}", load=partial(_load, config, index)) for index in range(config.val)]


def _load(config: MotionConfig, index: int) -> Loaded:
    return motion_clip(config, "val", index)[0], motion_masks(config, "val", index)


def propagate_videos(encoder: nn.Module, config: TrackingConfig, motion: MotionConfig, *, augment: ViewConfig, device: torch.device) -> Entry:
    """Label propagation on ``config.root`` or the motion set. Raises ConfigError and ValueError, see :func:`propagate`."""
    procedural = config.root == Path("")
    videos = motion_tracks(motion) if procedural else labelled_tracks(config)
    data = f"motion set (synthetic, seed {motion.seed}), masks of its shapes; what leaves on one side comes back on the other" if procedural else ""
    still, multiple = 0, 32
    if not isinstance(encoder, VisionTransformer):
        strides = encoder.strides
        assert isinstance(strides, tuple)
        still, multiple = strides[0], strides[1]
    return propagate(
        encoder, videos, config, augment=augment, data=data or f"{config.root}, {config.split}", device=device, still=still, multiple=multiple
    )
