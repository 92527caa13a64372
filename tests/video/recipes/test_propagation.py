"""``suite3d evaluate RUN propagation`` on video runs: the motion set's own masks, every kind of encoder, any run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from suite3d.cli import main
from suite3d.image.recipes.propagation import TrackingConfig
from suite3d.image.views import ViewConfig
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.report.png import write_png
from suite3d.video.backbones import UniFormer, UniFormerConfig, r3d_18
from suite3d.video.data.motion import MotionConfig
from suite3d.video.recipes.propagation import motion_tracks, propagate_videos

MOTION = MotionConfig(train=9, val=9, size=32, frames=8, shapes=(1, 1))
CPU = torch.device("cpu")


def test_motion_tracks_are_clips_with_their_masks():
    videos = motion_tracks(MOTION)
    frames, masks = videos[4].load()
    assert len(videos) == 9 and frames.shape == (8, 32, 32, 3) and masks.shape == (8, 32, 32) and masks.max() == 1


def test_colours_alone_follow_a_shape_better_than_standing_still():
    """The pixels of 2 x 2 patches as features, by a transformer without blocks whose embedding is the identity."""
    config = ViTConfig(dim=12, depth=0, heads=2, clip=(1, 32, 32), patch=(1, 2, 2), positions="none", final_norm=False)
    encoder = VisionTransformer(config).eval()
    with torch.no_grad():
        encoder.patch_embed.proj.weight.copy_(torch.eye(12).view_as(encoder.patch_embed.proj.weight))
        encoder.patch_embed.proj.bias.zero_()
    entry = propagate_videos(encoder, TrackingConfig(radius=2), MOTION, augment=ViewConfig(size=32), device=CPU)
    assert entry["metrics"]["J&F"] > entry["metrics"]["J&F kept"] + 5 and "motion set (synthetic" in entry["protocol"]["data"]
    assert "16 x 16 a frame" in entry["protocol"]["tokens"] and "each as a picture" in entry["protocol"]["frames"]


@pytest.mark.parametrize("kind", ["r3d_18", "uniformer"])
def test_convolutional_encoders_see_still_clips(kind):
    sizes = UniFormerConfig(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), head_dim=8)
    encoder = r3d_18(width=8).eval() if kind == "r3d_18" else UniFormer(sizes).eval()
    entry = propagate_videos(encoder, TrackingConfig(videos=2), MOTION, augment=ViewConfig(size=64), device=CPU)
    assert "stands still" in entry["protocol"]["frames"] and "2 of 9 videos" in entry["protocol"]["data"]
    assert f"{64 // encoder.strides[1]} x {64 // encoder.strides[2]} a frame" == entry["protocol"]["tokens"]
    assert np.isfinite(list(entry["metrics"].values())).all()


def test_a_run_is_evaluated_without_labels(tmp_path, capsys):
    for name in ("a", "b"):
        for frame in range(4):
            (tmp_path / "clips" / name).mkdir(parents=True, exist_ok=True)
            picture = np.random.default_rng(frame).integers(0, 256, (32, 32, 3)).astype(np.uint8)
            write_png(tmp_path / "clips" / name / f"{frame:05d}.png", picture)
    tiny = ["encoder.dim=24", "encoder.depth=1", "encoder.heads=2", "decoder.dim=24", "decoder.depth=1", "decoder.heads=2"]
    loop = ["train.steps=1", "train.batch_size=2", "train.workers=0", "train.probe_every=0", "augment.size=32", "encoder.patch=8"]
    data = [f"data.root={tmp_path / 'clips'}", "data.images=frames", "data.frames=4", "data.stride=1", "encoder.tubelet=2"]
    run = tmp_path / "run"
    assert main(["pretrain", "videomae", *tiny, *loop, *data, f"run.dir={run}"]) == 0
    small = ["data.motion={train: 9, val: 9, size: 32, frames: 8}", "propagation.videos=3", "random=true"]
    assert main(["evaluate", str(run), "propagation", *small]) == 0
    trained, random = json.loads((run / "evaluate/result.json").read_text())["entries"]
    assert "as a clip that stands still" in trained["protocol"]["frames"] and "3 of 9 videos" in trained["protocol"]["data"]
    assert trained["metrics"]["J&F kept"] == random["metrics"]["J&F kept"] and trained["metrics"]["J"] != random["metrics"]["J"]
    assert "J&F" in capsys.readouterr().out
    assert main(["evaluate", str(run), "propagation", f"propagation.root={tmp_path}"]) == 2
    assert "layout of DAVIS" in capsys.readouterr().err
