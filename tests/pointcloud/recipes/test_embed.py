"""``suite3d embed`` on LiDAR runs: the mean of every scan's own cells, named, with its protocol, and broken scans left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from suite3d.cli import main
from suite3d.pointcloud.data.files import read_points
from suite3d.pointcloud.data.source import FrameSource
from suite3d.pointcloud.recipes.data import LidarDataConfig, build_dataset
from suite3d.pointcloud.recipes.embed import EmbedScansConfig, scan_features
from tests.pointcloud.recipes.test_recipes import pretrain


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scans") / "run"
    assert pretrain("occupancy_mae", path) == 0
    return path


def test_every_scan_of_the_run_has_a_vector(run: Path, tmp_path: Path) -> None:
    assert main(["embed", str(run), str(tmp_path / "deep/f.npz")]) == 0
    found = np.load(tmp_path / "deep/f.npz")
    assert len(found["features"]) == 6 == len(set(found["names"])) and found["features"].dtype == np.float32
    assert (found["labels"] == -1).all() and not len(found["skipped"]) and np.isfinite(found["features"]).all()
    said = json.loads(str(found["protocol"]))
    assert said["weights"] == str(run) and "synthetic" in said["data"] and "VoxelBackBone8x" in said["features"]
    gaps = np.linalg.norm(found["features"][:, None] - found["features"][None], axis=2) + np.eye(6)
    assert gaps.min() > 1e-4, "scans differ"


def test_a_folder_of_scans_and_what_a_vector_is(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(3):
        rows = np.concatenate([rng.uniform(-12, 12, (4000, 2)), rng.uniform(-2, 1, (4000, 1)), rng.uniform(0, 1, (4000, 1))], axis=1)
        np.save(scans / f"{number}.npy", rows.astype(np.float32))
    (scans / "3.npy").write_bytes(b"nothing")
    np.save(scans / "4.npy", np.full((5, 4), 900.0, dtype=np.float32))  # out of range
    for batch in (1, 3):
        assert main(["embed", str(run), str(tmp_path / f"{batch}.npz"), f"data.root={scans}", "data.kind=folder", f"batch={batch}"]) == 0
    one, three = np.load(tmp_path / "1.npz"), np.load(tmp_path / "3.npz")
    assert [Path(name).stem for name in one["names"]] == ["0", "1", "2"] and len(one["skipped"]) == 2
    np.testing.assert_allclose(one["features"], three["features"], atol=1e-5)
    assert str(scans) in json.loads(str(one["protocol"]))["data"]

    from suite3d.config import load_config, stored_parts
    from suite3d.interop.load import read_checkpoint
    from suite3d.pointcloud.encoders.build import build_encoder

    config = load_config(EmbedScansConfig, overrides=stored_parts(run / "config.yaml", ("encoder",)))
    encoder = build_encoder(config.encoder).eval()
    encoder.load_state_dict(read_checkpoint(run / "encoder.safetensors"))
    (scans / "3.npy").unlink()
    source = FrameSource(build_dataset(LidarDataConfig(root=scans)), channels=("intensity",), point_range=config.encoder.point_range)
    with torch.no_grad():
        levels = encoder(source.collate([source.get(1, rng)], [0])).levels
        expected = torch.cat([level.feats.mean(dim=0) for level in levels])
        both = scan_features(encoder, source.collate([source.get(0, rng), source.get(1, rng)], [0, 1]))
    np.testing.assert_allclose(one["features"][1], expected.numpy(), atol=1e-5)
    torch.testing.assert_close(both[1], expected, atol=1e-5, rtol=1e-4)
    assert len(read_points(scans / "0.npy")[0]) == 4000


def test_refusals(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, text in (
        (["embed", str(run), str(tmp_path / "out.csv")], ".npz"),
        (["embed", str(run), str(tmp_path / "o.npz"), f"data.root={empty}"], "no point files"),
        (["embed", str(run), str(tmp_path / "o.npz"), "encoder.width=0.5"], "size mismatch"),
        (["embed", str(empty), str(tmp_path / "o.npz")], "embed expects"),
        (["evaluate", str(run), "knn"], "LiDAR run"),
    ):
        assert main(arguments) == 2, arguments
        assert text in capsys.readouterr().err
