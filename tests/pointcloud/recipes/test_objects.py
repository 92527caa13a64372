"""Object runs from the command line: probe and picture, frozen protocols, the features file, a folder of files, a start from weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from suite3d.cli import main
from suite3d.engine.files import read_json_lines
from suite3d.pointcloud.data.objects.source import ObjectSource
from suite3d.pointcloud.data.objects.synthetic import ShapeConfig, Shapes
from suite3d.pointcloud.encoders.point_patch import PointPatchTransformer
from suite3d.pointcloud.interop.point_mae import load_point_mae
from suite3d.pointcloud.recipes.objects.evaluate import load_frozen
from suite3d.pointcloud.recipes.objects.probe import plain_view

SHAPES = "data.shapes={classes: 4, train: 10, val: 5, points: 200}"
SMALL = ["augment.points=80", "encoder.dim=24", "encoder.depth=1", "encoder.heads=2", "encoder.group_size=8", "encoder.widths=[8,12,16]"]
SMALL += ["train.steps=3", "train.batch_size=6", "train.workers=0", "train.device=cpu", "train.log_every=1"]
DINO = ["local.points=32", "local.count=2", "method.prototypes=16", "method.hidden=16", "method.bottleneck=8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("objects") / "run"
    assert main(["pretrain", "object_dino", SHAPES, *SMALL, *DINO, "train.probe_every=3", "train.visual_every=3", f"run.dir={path}"]) == 0
    return path


def test_the_run_is_probed_and_shows_its_views(run: Path) -> None:
    probe = [row for row in read_json_lines(run / "metrics.jsonl") if row["kind"] == "probe"][-1]
    assert all(0 <= probe[name] <= 1 for name in ("knn", "knn_standardised", "ridge")) and probe["knn_chance"] == 0.25
    assert list((run / "pictures").glob("views_*.png"))
    said = json.loads((run / "provenance.json").read_text())
    assert said["modality"] == "object clouds" and said["labels"] == "none" and "synthetic" in said["data"]


def test_every_protocol_gives_numbers_with_its_protocol(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["knn", "linear", "ridge", "nearest_mean", "fewshot", "retrieval"]
    quick = ["linear.epochs=2", "fewshot.shots=[2]", "knn.k=[3]", "random=true"]
    assert main(["evaluate", str(run), ",".join(kinds), *quick]) == 0
    result = json.loads((run / "evaluate/result.json").read_text())
    assert {entry["kind"] for entry in result["entries"]} == set(kinds) and not result["left out"]
    assert all(entry["protocol"]["in short"] and all(0 <= value <= 100 for value in entry["metrics"].values()) for entry in result["entries"])
    assert {entry["weights"] for entry in result["entries"]} == {"encoder", "random weights"}
    assert "procedural shapes (synthetic" in json.dumps(result)
    assert "frozen features" in capsys.readouterr().out


def test_svm(run: Path) -> None:
    pytest.importorskip("sklearn")
    assert main(["evaluate", str(run), "svm", "svm.C=[0.01]"]) == 0
    assert json.loads((run / "evaluate/result.json").read_text())["entries"][0]["metrics"]


def test_embedding_is_the_encoder_on_every_object(run: Path, tmp_path: Path) -> None:
    assert main(["embed", str(run), str(tmp_path / "features.npz")]) == 0
    found = np.load(tmp_path / "features.npz")
    assert found["features"].shape == (40, 72) and found["features"].dtype == np.float32 and not len(found["skipped"])
    assert len(set(found["names"])) == 40 and list(found["classes"]) == ["ellipsoid", "brick", "can", "cone"] and found["labels"].max() == 3
    said = json.loads(str(found["protocol"]))
    assert said["weights"] == str(run) and "class token" in said["features"] and "synthetic" in said["data"]
    source = ObjectSource(Shapes(ShapeConfig(classes=4, train=10, val=5, points=200)), [plain_view(80)])
    from suite3d.engine.once import each_once

    part = next(each_once(source, [7], batch_size=1))
    with torch.no_grad():
        expected = load_frozen(run).described(part.batch.views[0])[0]
    np.testing.assert_allclose(found["features"][7], expected.numpy(), atol=1e-5)


def test_a_folder_with_a_broken_file_from_start_to_end(tmp_path: Path, run: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for kind, stretch in (("stick", (4, 1, 1)), ("ball", (1, 1, 1))):
            for number in range(count):
                file = tmp_path / "things" / part / kind / f"{number}.npy"
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, rng.standard_normal((120, 3)) * stretch)
    (tmp_path / "things/train/ball/broken.npy").write_bytes(b"nothing")
    data = f"data.root={tmp_path / 'things'}"
    init = [*SMALL, "encoder.class_token=true", f"init={run}", "method.depth=1", "method.heads=2", "train.batch_size=3"]
    assert main(["pretrain", "point_mae", data, *init, "train.probe_every=3", "train.visual_every=3", f"run.dir={tmp_path / 'run'}"]) == 0
    assert list((tmp_path / "run/pictures").glob("reconstruction_*.png"))
    assert main(["evaluate", str(tmp_path / "run"), "knn,ridge", "knn.k=[1]"]) == 0
    entries = json.loads((tmp_path / "run/evaluate/result.json").read_text())["entries"]
    assert len(entries[0]["skipped"]) == 1 and "broken.npy" in entries[0]["skipped"][0]
    assert main(["embed", str(tmp_path / "run"), str(tmp_path / "f.npz")]) == 0
    found = np.load(tmp_path / "f.npz")
    assert len(found["features"]) == 8 and "broken.npy" in found["skipped"][0]


def test_export_is_a_point_mae_file_and_comes_back(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), str(tmp_path / "out.pth"), "layout=point_mae"]) == 0
    state = torch.load(tmp_path / "out.pth", weights_only=True)["base_model"]
    assert state["MAE_encoder.encoder.first_conv.0.weight"].shape == (8, 3, 1) and all(name.startswith("MAE_encoder.") for name in state)
    encoder = load_frozen(run)
    fresh = PointPatchTransformer(encoder.config)
    assert load_point_mae(fresh, tmp_path / "out.pth", minimum=1.0).share == 1.0
    assert all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), fresh.state_dict().values()))


def test_refusals(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    np.save(bare / "a.npy", np.random.default_rng(0).standard_normal((50, 3)))
    for arguments, text in (
        (["export", str(run), str(tmp_path / "o.pth"), "layout=timm"], "layout expected one of point_mae"),
        (["evaluate", str(run), "attentive"], "unknown protocol 'attentive'"),
        (["evaluate", str(run), "knn", f"data.root={bare}"], "labels of two classes"),
        (["evaluate", str(run), "knn", "data.rot=x"], "data.rot"),
        (["embed", str(run), str(tmp_path / "out.csv")], ".npz"),
        (["pretrain", "point_mae", f"data.root={tmp_path / 'nowhere'}"], "not a folder"),
        (["pretrain", "point_mae", SHAPES, "init=nowhere.pth", f"run.dir={tmp_path / 'r'}"], "nowhere.pth"),
        (["pretrain", "object_dino", SHAPES, "augment.crop=[0.5,0.2]"], "crop"),
        (["pretrain", "object_dino", SHAPES, "encoder.channels=[r]"], "channels"),
    ):
        assert main(arguments) == 2, arguments
        assert text in capsys.readouterr().err
