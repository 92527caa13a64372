"""Frozen image features from the command line: every protocol, the features file, the refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from suite3d.cli import main
from suite3d.image.recipes.encoder import load_frozen
from suite3d.nn.pooling import pooled_features

SMALL = ["data.fractals={classes: 4, train: 12, val: 4, size: 24, points: 2000}", "augment.size=16", "train.steps=2", "train.batch_size=6"]
SMALL += ["train.workers=0", "encoder.dim=32", "encoder.depth=1", "encoder.heads=2", "decoder.dim=16", "decoder.depth=1", "decoder.heads=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "run"
    assert main(["pretrain", "mae", *SMALL, "train.probe_every=2", "train.visual_every=2", f"run.dir={path}"]) == 0
    return path


def test_the_run_is_probed_and_shows_its_reconstruction(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    probe = next(row for row in rows if row["kind"] == "probe")
    assert 0 < probe["token_similarity"] <= 1
    assert any("uniformity" in row for row in rows if row["kind"] == "train")
    assert list((run / "pictures").glob("reconstruction_*.png"))


def test_every_protocol_gives_numbers_with_its_protocol(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["knn", "linear", "ridge", "nearest_mean", "attentive", "fewshot", "retrieval"]
    quick = ["linear.epochs=2", "attentive.epochs=1", "attentive.depth=1", "fewshot.shots=[2]", "knn.k=[3]", "random=true"]
    assert main(["evaluate", str(run), ",".join(kinds), *quick]) == 0
    result = json.loads((run / "evaluate/result.json").read_text())
    assert {entry["kind"] for entry in result["entries"]} == set(kinds) and not result["left out"]
    assert all(entry["protocol"]["in short"] and all(0 <= value <= 100 for value in entry["metrics"].values()) for entry in result["entries"])
    assert {entry["weights"] for entry in result["entries"]} == {"encoder", "random weights"}
    assert "fractals (synthetic" in json.dumps(result)
    assert "frozen features" in capsys.readouterr().out


def test_svm_chooses_its_penalty_on_training_pictures(run: Path) -> None:
    pytest.importorskip("sklearn")
    assert main(["evaluate", str(run), "svm", "svm.C=[0.01,1.0]"]) == 0
    entry = json.loads((run / "evaluate/result.json").read_text())["entries"][0]
    assert entry["chosen"]["C"] in (0.01, 1.0) and len(entry["grid"]) == 2


def test_diagnostics_are_of_the_encoder_and_need_no_labels(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from suite3d.evaluate import diagnostics
    from suite3d.image.data.source import ImageSource, ViewGroup
    from suite3d.image.recipes.data import build_images
    from suite3d.image.recipes.diagnostics import look
    from suite3d.image.recipes.evaluate import frozen_config
    from suite3d.image.recipes.probe import plain_view

    assert main(["evaluate", str(run), "diagnostics,knn", "knn.k=[3]", "diagnostics={pictures: 10, views: 3}"]) == 0
    result = json.loads((run / "evaluate/result.json").read_text())
    found = result["entries"][0]["metrics"]
    assert list(found) == ["rankme", "effective rank", "lidar rank", "feature std", "alignment", "uniformity", "token similarity"]
    assert "10 training pictures" in result["entries"][0]["protocol"]["in short"] and result["table"]["columns"][0] == "frozen features"
    assert result["table"]["rows"][0][1].endswith("of 10") and result["table"]["rows"][-1][1].endswith("%")
    config = frozen_config(run, ["diagnostics={pictures: 10, views: 3}"])
    images = build_images(config.data)
    rows = [round(i * (len(images) - 1) / 9) for i in range(10)]
    view = config.diagnostics.view
    view.size, view.mean, view.std = config.augment.size, config.augment.mean, config.augment.std
    source = ImageSource(images, [plain_view(config.augment), ViewGroup(count=3, view=view)], indices=rows)
    seen = look(load_frozen(run), source, device=torch.device("cpu"), batch=4, workers=0)
    assert found["rankme"] == pytest.approx(diagnostics.rank_me(seen.plain), rel=1e-5)
    assert found["lidar rank"] == pytest.approx(diagnostics.lidar_rank(seen.views), rel=1e-4)
    pairs = [(a, b) for a in range(3) for b in range(a)]
    assert found["alignment"] == pytest.approx(np.mean([diagnostics.alignment(seen.views[:, a], seen.views[:, b]) for a, b in pairs]), rel=1e-5)

    from suite3d.report.png import write_png

    for number in range(4):
        write_png(tmp_path / f"{number}.png", np.random.default_rng(number).integers(0, 256, (20, 24, 3)).astype(np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    words = ["evaluate", str(run), "diagnostics", f"data={{root: {tmp_path}, kind: folder}}", f"out={tmp_path / 'out'}"]
    assert main(words) == 0
    entry = json.loads((tmp_path / "out/result.json").read_text())["entries"][0]
    assert "4 training pictures" in entry["protocol"]["in short"] and len(entry["skipped"]) == 1
    assert main([*words[:3], "diagnostics.views=1"]) == 2
    assert "two views" in capsys.readouterr().err


def test_embedding_is_the_encoder_on_every_picture(run: Path, tmp_path: Path) -> None:
    assert main(["embed", str(run), str(tmp_path / "deep/features.npz")]) == 0
    found = np.load(tmp_path / "deep/features.npz")
    assert found["features"].shape == (48, 32) and found["features"].dtype == np.float32
    assert len(set(found["names"])) == 48 and len(found["classes"]) == 4 and found["labels"].max() == 3 and not len(found["skipped"])
    from suite3d.image.data.source import ImageSource
    from suite3d.image.recipes.data import build_images
    from suite3d.image.recipes.evaluate import frozen_config
    from suite3d.image.recipes.probe import plain_view

    config = frozen_config(run, [])
    source = ImageSource(build_images(config.data), [plain_view(config.augment)])
    batch = source.collate([source.get(7, np.random.default_rng(0))], [0])
    with torch.no_grad():
        expected = pooled_features(load_frozen(run), batch.pixels())[0]
    np.testing.assert_allclose(found["features"][7], expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "RUN", "knnn"], "unknown protocol 'knnn'"),
        (["evaluate", "RUN", "knn", "data.kindd=digits"], "unknown key 'data.kindd'"),
        (["embed", "RUN", "out.csv"], "expected OUT.npz"),
        (["embed", "NOTHING", "out.npz"], "expects a run on pictures, videos, LiDAR scans or object clouds"),
    ],
)
def test_refusals(words: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run) if word == "RUN" else word for word in words]) == 2
    assert message in capsys.readouterr().err


def test_unlabelled_pictures_cannot_be_scored(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from suite3d.report.png import write_png

    for number in range(3):
        write_png(tmp_path / f"{number}.png", np.full((20, 20, 3), 60 * number, dtype=np.uint8))
    assert main(["evaluate", str(run), "knn", f"data={{root: {tmp_path}, kind: folder}}"]) == 2
    assert "no labels of two classes" in capsys.readouterr().err
