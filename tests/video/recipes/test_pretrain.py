"""Whole video pretraining runs through the command line: the motion set, a folder, broken files, resume, the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from suite3d.cli import main
from suite3d.engine.budget import set_budget
from suite3d.engine.files import read_json_lines
from suite3d.engine.task import TrainConfig
from suite3d.recipes import find_recipe, resolve
from suite3d.write_video import write_video

LOOP = ["train.steps=4", "train.batch_size=4", "train.workers=0", "train.log_every=1", "train.save_every=2", "train.device=cpu"]
TINY = ["encoder.dim=24", "encoder.depth=1", "encoder.heads=2", "decoder.dim=24", "decoder.depth=1", "decoder.heads=2"]
CLIPS = ["data.motion.train=18", "data.motion.val=9", "data.motion.size=32", "data.motion.frames=16"]


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    return f"data.motion.folder={tmp_path_factory.mktemp('motion') / 'set'}"


def pretrain(name, run, *extra):
    return main(["pretrain", name, *LOOP, *TINY, *CLIPS, f"run.dir={run}", *extra])


def losses(run):
    return [row["loss"] for row in read_json_lines(run / "metrics.jsonl") if row["kind"] == "train"]


@pytest.mark.parametrize("name", ["videomae", "videomae_v2"])
def test_recipes_run_on_the_motion_set_and_are_deterministic(name, tmp_path, motion, capsys):
    for run in ("a", "b"):
        assert pretrain(name, tmp_path / run, motion, "train.probe_every=4", "train.visual_every=4") == 0
    first, second = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert len(first) == 4 and np.isfinite(first).all() and first == second
    out = capsys.readouterr().out
    assert out.count("samples_seen 16") == 2 and "effective_epochs 0.9" in out and "lr_abs" in out
    provenance = json.loads((tmp_path / "a/provenance.json").read_text())
    assert provenance["labels"] == "none" and "synthetic" in provenance["data"] and provenance["samples_seen"] == 16
    probe = [row for row in read_json_lines(tmp_path / "a/metrics.jsonl") if row["kind"] == "probe"]
    assert 0 <= probe[-1]["knn"] <= 1 and probe[-1]["knn_chance"] == pytest.approx(1 / 9)
    moving = (tmp_path / "a/pictures/reconstruction_moving_0000004.png").read_bytes()
    assert moving.count(b"fcTL") == 16 and b"acTL" in moving
    report = (tmp_path / "a/report.html").read_text()
    assert report.count("data:image/png;base64") == 2


def test_resume_half_way_repeats_the_same_losses(tmp_path, motion):
    assert pretrain("videomae_v2", tmp_path / "whole", motion, "data.repeats=2") == 0
    assert pretrain("videomae_v2", tmp_path / "cut", motion, "data.repeats=2") == 0
    (tmp_path / "cut/checkpoints/step_00000004.pt").unlink()
    assert pretrain("videomae_v2", tmp_path / "cut", motion, "data.repeats=2", "train.workers=2") == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ours = torch.load(tmp_path / "cut/checkpoints/step_00000004.pt", weights_only=True)["model"]
    assert {"mask_token", "encoder_to_decoder.weight", "encoder.blocks.0.attn.q_bias"} <= set(ours)


def test_a_folder_with_broken_files_trains_and_lists_them(tmp_path):
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(48, 64), (64, 48), (48, 64)]):
        write_video(tmp_path / f"videos/part/{number}.mp4", rng.integers(0, 255, (12, height, width, 3), dtype=np.uint8))
    (tmp_path / "videos/empty.mp4").touch()
    (tmp_path / "videos/text.mp4").write_text("not a video")
    arguments = [*LOOP, *TINY, f"data.root={tmp_path / 'videos'}", f"run.dir={tmp_path / 'run'}"]
    assert main(["pretrain", "videomae", *arguments, "train.probe_every=2"]) == 0
    listed = {Path(row["path"]).name for row in read_json_lines(tmp_path / "run/skipped.jsonl")}
    assert listed == {"empty.mp4", "text.mp4"}
    rows = read_json_lines(tmp_path / "run/metrics.jsonl")
    assert not any(row["kind"] == "probe" for row in rows), "no labels, no probe"
    assert any(row.get("short_clips") == 1.0 for row in rows), "12 frames are fewer than 16"


def test_class_folders_without_a_validation_split_are_probed_by_halves(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("a", "b"):
        for number in range(4):
            write_video(tmp_path / f"videos/{kind}/{number}.mp4", rng.integers(0, 255, (16, 32, 32, 3), dtype=np.uint8))
    config = resolve(find_recipe("videomae"), [*LOOP, *TINY, f"data.root={tmp_path / 'videos'}"])
    probe = config.task().probe
    sides = [{item.path for item in source.items} for source in probe.sources]
    assert len(sides[0]) == len(sides[1]) == 4 and not sides[0] & sides[1]


def test_a_split_folder_trains_on_train_and_scores_on_val(tmp_path, motion):
    config = resolve(find_recipe("videomae"), [*LOOP, *TINY, *CLIPS, motion])
    task = config.task()
    assert all("/train/" in str(item.path) for item in task.train.items)
    assert all("/val/" in str(item.path) for item in task.probe.sources[1].items)
    again = resolve(find_recipe("videomae"), [*LOOP, *TINY, f"data.root={config.data.motion.folder}"])
    assert [item.path for item in again.task().train.items] == [item.path for item in task.train.items]


def test_published_sizes_come_with_one_word():
    config = resolve(find_recipe("videomae"), ["config=vit_b"])
    with torch.device("meta"):
        encoder = config.build_encoder()
        method = config.build_method(encoder)
    assert len(method.state_dict()) == 218 and encoder.grid == (8, 14, 14)
    assert config.data.stride == 4 and config.method.mask_ratio == 0.9 and config.base_lr == 1.5e-4


def test_the_learning_rate_rule_counts_clips_and_not_their_repeats(capsys):
    train = TrainConfig(steps=100, batch_size=64)
    budget = set_budget(train, base_lr=6e-4, repeats=4, samples=800, kind="videos")
    assert train.optim.lr == budget.lr_abs == pytest.approx(1.5e-4)
    assert budget.samples_seen == 25600 and budget.effective_epochs == 32
    assert capsys.readouterr().out.count("\n") == 1
    assert set_budget(train, base_lr=6e-4, repeats=4, samples=800, kind="videos") == budget, "a second call (a resume) changes nothing"
    train.optim.lr = 5e-3
    with pytest.raises(ValueError, match="both given"):
        set_budget(train, base_lr=6e-4, repeats=1, samples=800, kind="videos")
    assert set_budget(train, base_lr=0, repeats=1, samples=800, kind="videos").lr_abs == 5e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.patch=7", "whole number of patches"),
        ("encoder.heads=5", "multiple of heads"),
        ("decoder.heads=5", "multiple of heads"),
        ("data.root=/nowhere", "no such folder"),
        ("method.mask_ratio=1.5", "mask ratio"),
        ("augment.crop=corner", "augment.crop"),
        ("train.optim.lr=0.5", "both given"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_code_2(override, message, tmp_path, motion, capsys):
    assert pretrain("videomae", tmp_path / "run", motion, override) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_v2_refuses_a_grid_that_its_cells_do_not_fit(tmp_path, motion, capsys):
    assert pretrain("videomae_v2", tmp_path / "run", motion, "augment.size=36") == 2
    assert "even number of tokens" in capsys.readouterr().err
