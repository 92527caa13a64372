"""Whole runs through the command line: every recipe, its resume, its twin, its report, its refusals."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from suite3d.cli import main
from suite3d.engine.files import read_json_lines

STREET = ["data.street.train_sequences=3", "data.street.val_sequences=2", "data.street.frames=2", "data.street.beams=16", "data.street.azimuths=256"]
LOOP = ["train.steps=4", "train.batch_size=2", "train.workers=0", "train.log_every=1", "train.save_every=2", "train.device=cpu"]
RANGE = "encoder.point_range=[-12.8,-12.8,-2.6,12.8,12.8,1.4]"
VOXELS = [RANGE, "encoder.kind=voxel_backbone_8x", "encoder.width=0.25", "encoder.voxel_size=[0.2,0.2,0.16]", "encoder.channels=[intensity]"]
NECK = "detector.neck={layer_nums: [1], layer_strides: [1], num_filters: [16], upsample_strides: [1.0], num_upsample_filters: [16]}"


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_json_lines(run / "metrics.jsonl") if row["kind"] == "train"]


def pretrain(name: str, run: Path, *extra: str, encoder: list[str] = VOXELS) -> int:
    return main(["pretrain", name, *STREET, *LOOP, *encoder, f"run.dir={run}", *extra])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pretrained") / "run"
    assert pretrain("occupancy_mae", run, "train.probe_every=4", "train.visual_every=4") == 0
    return run


def test_resume_half_way_repeats_the_same_losses(tmp_path):
    assert pretrain("occupancy_mae", tmp_path / "whole") == 0
    assert pretrain("occupancy_mae", tmp_path / "cut") == 0
    (tmp_path / "cut/checkpoints/step_00000004.pt").unlink()  # as if killed after the save at step 2
    assert pretrain("occupancy_mae", tmp_path / "cut") == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_run_directory_probe_pictures_and_show(pretrained, capsys):
    rows = read_json_lines(pretrained / "metrics.jsonl")
    probe = [row for row in rows if row["kind"] == "probe"]
    assert probe and 0 <= probe[-1]["probe"] <= 1
    assert list((pretrained / "pictures").glob("reconstruction_*.png"))
    assert main(["show", str(pretrained)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert "<svg" in (pretrained / "report.html").read_text()


def finetune(run: Path, *extra: str) -> int:
    small = ["detector.head.velocity=false", "detector.head.shared_channels=16", "augment.shift=[0,0,0]", "evaluate.pictures=1"]
    return main(["finetune", "centerpoint", *STREET, *LOOP, *VOXELS, NECK, *small, f"run.dir={run}", *extra])


def test_twin_over_seeds_prints_the_paired_difference(pretrained, tmp_path, capfd):
    assert finetune(tmp_path / "twin", f"init={pretrained}", "twin=scratch", "seeds=2", "jobs=2", "labels=34%") == 0
    result = json.loads((tmp_path / "twin/result.json").read_text())
    assert set(result["metrics"]) == {"pretrained", "scratch"}
    assert all(len(values) == 2 for arm in result["metrics"].values() for values in arm.values())
    gap = result["difference"]["mAP 3D"]
    expected = np.mean(result["metrics"]["pretrained"]["mAP 3D"]) - np.mean(result["metrics"]["scratch"]["mAP 3D"])
    assert gap["mean"] == pytest.approx(expected) and gap["low"] <= gap["mean"] <= gap["high"]
    arms = [tmp_path / "twin" / arm / "seed0" for arm in ("pretrained", "scratch")]
    hashes = {json.loads((arm / "provenance.json").read_text())["label hash"] for arm in arms}
    assert len(hashes) == 1, "both arms see the same labels"
    assert json.loads((arms[0] / "load.json").read_text())
    assert "weights from" in capfd.readouterr().out
    assert (tmp_path / "twin/report.html").exists()


def test_wrong_backbone_is_refused_not_loaded_by_a_tenth(pretrained, tmp_path, capsys):
    code = finetune(tmp_path / "wrong", f"init={pretrained}", "encoder.kind=voxel_res_backbone_8x")
    assert code == 1
    message = capsys.readouterr().err
    assert "refuse" in message.lower() or "%" in message
    assert not (tmp_path / "wrong/checkpoints").exists()


def test_evaluate_again_gives_the_same_numbers(tmp_path):
    assert finetune(tmp_path / "run") == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    first, again = (json.loads((tmp_path / "run" / name).read_text()) for name in ("result.json", "evaluation.json"))
    assert first["metrics"] == again["metrics"]


def test_export_and_come_back(pretrained, tmp_path):
    out = tmp_path / "encoder.pth"
    assert main(["export", str(pretrained), str(out), "layout=spconv1"]) == 0
    state = torch.load(out, weights_only=True)["model_state"]
    ours = torch.load(pretrained / "checkpoints/step_00000004.pt", weights_only=True)["model"]["encoder.conv_input.0.weight"]
    assert torch.equal(state["backbone_3d.conv_input.0.weight"], ours.permute(1, 2, 3, 4, 0))
    assert finetune(tmp_path / "back", f"init={out}", "train.steps=1") == 0


def test_bare_folder_with_broken_files_trains_and_lists_them(tmp_path):
    folder = tmp_path / "scans" / "drive"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    scan = np.concatenate([rng.uniform(-10, 10, (4000, 2)), rng.uniform(-2, 1, (4000, 1)), rng.random((4000, 1))], 1).astype(np.float32)
    for number in range(4):
        scan.tofile(folder / f"{number}.bin")
    (folder / "packed.bin.xz").write_bytes(lzma.compress(scan.tobytes()))
    (folder / "empty.bin").write_bytes(b"")
    (folder / "truncated.bin").write_bytes(scan.tobytes()[:-7])
    np.full_like(scan, np.nan).tofile(folder / "nan.bin")
    (scan + np.float32(500)).tofile(folder / "far.bin")
    arguments = [*LOOP, *VOXELS, f"data.root={tmp_path / 'scans'}", "train.steps=6", f"run.dir={tmp_path / 'run'}"]
    assert main(["pretrain", "occupancy_mae", *arguments]) == 0
    listed = {Path(row["path"]).name for row in read_json_lines(tmp_path / "run/skipped.jsonl")}
    assert {"empty.bin", "truncated.bin", "nan.bin"} <= listed
    assert any("far" in name for name in listed)
    assert main(["pretrain", "bev_contrast", *arguments]) == 2, "no poses: a configuration error that says so"


def test_folder_in_which_nothing_is_readable_fails_at_once(tmp_path, capsys):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a.bin").write_bytes(b"123")
    code = main(["pretrain", "occupancy_mae", *LOOP, *VOXELS, f"data.root={tmp_path / 'scans'}", f"run.dir={tmp_path / 'run'}"])
    assert code in (1, 2)
    assert "a.bin" in capsys.readouterr().err


def test_street_on_disk_reads_as_kitti_and_scores_with_the_kitti_protocol(tmp_path):
    small = [text.removeprefix("data.") for text in STREET]
    assert main(["data", "make-street", str(tmp_path / "street"), "format=kitti", "images=false", "workers=1", *small]) == 0
    assert finetune(tmp_path / "run", f"data.root={tmp_path / 'street'}", "train.steps=1") == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["protocol"] == "kitti" and result["scans"] == 4
    assert len(list((tmp_path / "run/kitti_results/data").glob("*.txt"))) == 4
