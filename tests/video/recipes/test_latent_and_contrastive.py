"""Whole runs of SIGMA, V-JEPA 2, SALT, CVRL and RSPNet on tiny motion sets: they run, resume exactly, and refuse what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from suite3d.config import ConfigError
from suite3d.engine.files import read_json_lines
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.recipes import find_recipe, resolve, run

LOOP = ["train.steps=4", "train.batch_size=4", "train.workers=0", "train.log_every=1", "train.save_every=2", "train.device=cpu"]
LOOP += ["train.probe_every=0", "train.visual_every=0"]
VIT = ["encoder.dim=48", "encoder.depth=1", "encoder.heads=2", "encoder.patch=8"]
ROOT = Path(__file__).parents[3]
SMALL = {
    "videomae": [*VIT, "decoder.dim=24", "decoder.depth=1"],
    "sigma": [*VIT, "decoder.dim=24", "decoder.depth=1", "target.widths=[32,16]", "method.prototypes=20"],
    "vjepa": [*VIT, "predictor.dim=24", "predictor.depth=1"],
    "salt": [*VIT, "predictor.dim=24", "predictor.depth=1"],
    "cvrl": ["encoder.width=4", "method.hidden=32", "method.dim=16"],
    "rspnet": ["encoder.width=4", "method.queue=16", "method.dim=16"],
}


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    folder = tmp_path_factory.mktemp("motion") / "set"
    return [f"data.motion.folder={folder}", "data.motion.train=12", "data.motion.val=12", "data.motion.frames=20"]


@pytest.fixture(scope="module")
def teacher(motion, tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher")
    start("videomae", path, motion)
    return path


def start(name: str, path: Path, motion: list[str], *extra: str) -> list[float]:
    run(resolve(find_recipe(name), [*motion, *LOOP, *SMALL[name], f"run.dir={path}", *extra]))
    return [row["loss"] for row in read_json_lines(path / "metrics.jsonl") if row["kind"] == "train"]


@pytest.mark.parametrize("name", ["sigma", "vjepa", "salt", "cvrl", "rspnet"])
def test_runs_and_resumes_exactly(name, motion, teacher, tmp_path):
    extra = [f"init={teacher}"] if name == "salt" else []
    whole = start(name, tmp_path / "whole", motion, *extra)
    assert len(whole) == 4 and np.isfinite(whole).all()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut/encoder.safetensors").unlink()
    (tmp_path / "cut/result.json").unlink()
    (tmp_path / "cut/checkpoints/step_00000004.pt").unlink()  # as if killed after the save at step 2
    assert start(name, tmp_path / "cut", motion, *extra) == whole
    first, second = (load_file(tmp_path / part / "encoder.safetensors") for part in ("whole", "cut"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    provenance = json.loads((tmp_path / "whole/provenance.json").read_text())
    assert provenance["labels"] == "none" and "synthetic" in provenance["data"]


def test_v_jepa_saves_the_average_and_draws_its_contexts(motion, tmp_path):
    start("vjepa", tmp_path, motion, "train.visual_every=4", "train.probe_every=4")
    state = torch.load(tmp_path / "checkpoints/step_00000004.pt", weights_only=True)["model"]
    stored = load_file(tmp_path / "encoder.safetensors")
    assert all(torch.equal(stored[key], state[f"encoder.{key}"]) for key in stored)
    assert any(not torch.equal(stored[key], state[f"student.{key}"]) for key in stored)
    assert list((tmp_path / "pictures").glob("context_*.png"))
    assert any(row["kind"] == "probe" and 0 <= row["knn"] <= 1 for row in read_json_lines(tmp_path / "metrics.jsonl"))


def test_salt_keeps_its_teacher_and_names_what_is_missing(motion, teacher, tmp_path):
    start("salt", tmp_path / "run", motion, f"init={teacher}")
    state = torch.load(tmp_path / "run/checkpoints/step_00000004.pt", weights_only=True)["model"]
    stored = load_file(teacher / "encoder.safetensors")
    assert stored and all(torch.equal(value, state[f"teacher.{key}"]) for key, value in stored.items())
    with pytest.raises(ConfigError, match="init=RUN"):
        start("salt", tmp_path / "none", motion)
    with pytest.raises(ConfigError, match="no such run"):
        start("salt", tmp_path / "none", motion, f"init={tmp_path / 'nowhere'}")
    with pytest.raises(ConfigError, match="expected one of encoder.safetensors"):
        (tmp_path / "empty").mkdir()
        start("salt", tmp_path / "none", motion, f"init={tmp_path / 'empty'}")


def test_sigma_reads_a_dino_file_and_refuses_to_guess(motion, tmp_path):
    """The layout of DINO's published files: names of timm, a class token, one image as the clip."""
    torch.manual_seed(0)
    dino = VisionTransformer(
        ViTConfig(dim=384, depth=1, heads=6, clip=(1, 32, 32), patch=(1, 8, 8), positions="learned", qkv_bias="full", class_token=True)
    )
    state = {key: value for key, value in dino.state_dict().items() if not key.startswith("pos_embed")}
    table = dino.pos_embed.table[None]
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), table], dim=1)
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    torch.save(state, tmp_path / "dino.pth")
    losses = start("sigma", tmp_path / "run", motion, "target.kind=image", f"target.weights={tmp_path / 'dino.pth'}")
    assert np.isfinite(losses).all()
    kept = torch.load(tmp_path / "run/checkpoints/step_00000004.pt", weights_only=True)["model"]
    assert torch.equal(kept["target.image_encoder.blocks.0.mlp.fc1.weight"], state["blocks.0.mlp.fc1.weight"])
    with pytest.raises(ConfigError, match="target.weights=FILE"):
        start("sigma", tmp_path / "none", motion, "target.kind=image")


@pytest.mark.parametrize("name", ["sigma", "vjepa", "salt", "cvrl", "rspnet"])
def test_published_sizes_resolve(name):
    files = {"sigma": "vit_b", "vjepa": "vit_l_jepa", "salt": "vit_l_jepa", "cvrl": "cvrl_k400", "rspnet": "rspnet_k400"}
    recipe = resolve(find_recipe(name), [f"config={files[name]}"])
    assert recipe.clip == {"vjepa": (16, 256, 256), "salt": (16, 256, 256), "rspnet": (16, 112, 112)}.get(name, (16, 224, 224))
    if name in ("cvrl", "rspnet"):
        assert recipe.base_lr * recipe.train.batch_size / 256 == pytest.approx({"cvrl": 0.32, "rspnet": 0.1}[name])


@pytest.fixture(scope="module")
def two_ranks(motion, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "runs.py"
    arguments = {name: [*motion, *LOOP, *SMALL[name], f"run.dir={folder / name}"] for name in ("sigma", "vjepa", "cvrl", "rspnet")}
    script.write_text(
        "import torch.distributed as dist\nfrom suite3d.recipes import find_recipe, resolve, run\ndist.init_process_group('gloo')\n"
        f"for name, arguments in {arguments!r}.items():\n    run(resolve(find_recipe(name), arguments))\n"
    )
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return folder, done.stdout


@pytest.mark.parametrize("name", ["sigma", "vjepa"])
def test_two_ranks_train_on_the_global_batch(name, motion, two_ranks, tmp_path):
    """No batch norm here, so a run on two ranks is the run of one process: Sinkhorn, the loss's means and the average all cross the ranks."""
    alone = start(name, tmp_path, motion)
    together = [row["loss"] for row in read_json_lines(two_ranks[0] / name / "metrics.jsonl") if row["kind"] == "train"]
    np.testing.assert_allclose(together, alone, rtol=2e-4)
    first, second = (load_file(path / "encoder.safetensors") for path in (tmp_path, two_ranks[0] / name))
    assert all(torch.allclose(first[key], second[key], atol=2e-4) for key in first)


@pytest.mark.parametrize("name", ["cvrl", "rspnet"])
def test_two_ranks_of_the_contrastive_methods(name, two_ranks):
    folder, printed = two_ranks
    together = [row["loss"] for row in read_json_lines(folder / name / "metrics.jsonl") if row["kind"] == "train"]
    assert len(together) == 4 and np.isfinite(together).all()
    assert printed.count("batch norms are not synchronised") == 1, "CVRL says so, once; RSPNet shuffles instead"
    if name == "rspnet":
        state = torch.load(folder / name / "checkpoints/step_00000004.pt", weights_only=True)["model"]
        assert int(state["queue.position"]) == 4 * 4 % 16, "four steps of four keys, from both ranks"
