"""``suite3d embed`` on video runs: one vector a video, named, with its protocol."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from suite3d.cli import main

SMALL = ["encoder.dim=48", "encoder.depth=1", "encoder.heads=2", "encoder.patch=8", "decoder.dim=24", "decoder.depth=1"]
LOOP = ["train.steps=1", "train.batch_size=2", "train.workers=0", "train.device=cpu", "train.probe_every=0", "train.visual_every=0"]


def test_every_video_has_a_vector(tmp_path: Path) -> None:
    clips = ["data.motion.train=9", "data.motion.val=9", f"data.motion.folder={tmp_path / 'motion'}"]
    assert main(["pretrain", "videomae", *clips, *SMALL, *LOOP, f"run.dir={tmp_path / 'run'}"]) == 0
    assert main(["embed", str(tmp_path / "run"), str(tmp_path / "f.npz"), "clips=1", "crops=1", "device=cpu"]) == 0
    found = np.load(tmp_path / "f.npz")
    assert found["features"].shape == (9, 48) and np.isfinite(found["features"]).all() and len(set(found["names"])) == 9
    said = json.loads(str(found["protocol"]))
    assert said["weights"] == str(tmp_path / "run") and "1 x 1 views" in said["features"]
    assert found["features"].std(axis=0).max() > 1e-4, "videos differ"
