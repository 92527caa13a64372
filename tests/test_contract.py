"""What every recipe of ``suite3d list`` promises: it builds small, learns, repeats itself, and its encoder comes back out of a file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from suite3d.cli import main
from suite3d.engine.files import read_json_lines
from suite3d.engine.order import seed_everything
from suite3d.image.recipes.encoder import ImageDecoderConfig, ImageEncoderConfig, ImageViTConfig
from suite3d.interop.load import read_checkpoint
from suite3d.recipes import CONFIGS, RECIPES, Recipe, resolve

STEPS = 5
LOOP = [
    f"train.steps={STEPS}",
    "train.workers=0",
    "train.log_every=1",
    "train.save_every=5",
    "train.device=cpu",
    "train.probe_every=0",
    "train.visual_every=0",
]
STREET = ["data.street.train_sequences=3", "data.street.val_sequences=2", "data.street.frames=2", "data.street.beams=16", "data.street.azimuths=256"]
RANGE = "encoder.point_range=[-12.8,-12.8,-2.6,12.8,12.8,1.4]"
VOXELS = [RANGE, "encoder.kind=voxel_backbone_8x", "encoder.width=0.25", "encoder.voxel_size=[0.2,0.2,0.16]", "encoder.channels=[intensity]"]
NEAR = "encoder.point_range=[-6.4,-6.4,-2.6,6.4,6.4,1.4]"
SST = [NEAR, "encoder.kind=sst", "encoder.voxel_size=[0.32,0.32,4.0]", "encoder.sst.dim=32", "encoder.sst.point_dims=[32,32]", "encoder.sst.heads=2"]
SST += ["encoder.sst.blocks=1", "encoder.sst.window=[8,8,1]"]
PILLARS = [RANGE, "encoder.kind=pillar", "encoder.voxel_size=[0.4,0.4,4.0]", "encoder.channels=[intensity]"]
NECK = "detector.neck={layer_nums: [1], layer_strides: [1], num_filters: [16], upsample_strides: [1.0], num_upsample_filters: [16]}"
CENTER = [NECK, "detector.head.velocity=false", "detector.head.shared_channels=16", "augment.shift=[0,0,0]", "evaluate.pictures=0", "labels=100%"]
VIT = ["encoder.dim=48", "encoder.depth=1", "encoder.heads=2", "encoder.patch=8"]
OBJECTS = ["data.shapes={classes: 3, train: 8, val: 4, points: 256}", "augment.points=96", "encoder.dim=32", "encoder.depth=2", "encoder.heads=2"]
OBJECTS += ["encoder.group_size=8", "encoder.widths=[8,12,16]"]
EXTRA = {
    "object_dino": ["local.points=32", "local.count=2", "method.prototypes=32", "method.hidden=32", "method.bottleneck=16"],
    "point_mae": ["method.depth=1", "method.heads=2"],
    "mv_jar": SST,
    "voxel_mae": SST,
    "second": [*VOXELS, NECK, "evaluate.pictures=0", "labels=100%"],
    "centerpoint": [*VOXELS, *CENTER],
    "centerpoint_pillar": [*PILLARS, *CENTER],
    "videomae": [*VIT, "decoder.dim=24", "decoder.depth=1"],
    "videomae_v2": [*VIT, "decoder.dim=24", "decoder.depth=1"],
    "sigma": [*VIT, "decoder.dim=24", "decoder.depth=1", "target.widths=[32,16]", "method.prototypes=20"],
    "vjepa": [*VIT, "predictor.dim=24", "predictor.depth=1"],
    "lidar_lejepa": [*VOXELS, "method.slices=16"],
    "lidar_mv_dhel": [*VOXELS, "data.street.image_width=124", "data.street.image_height=40", "image.width=8"],
    "video_lejepa": [*VIT, "method.hidden=16", "method.dim=8", "method.slices=16"],
    "salt": [*VIT, "predictor.dim=24", "predictor.depth=1"],
    "cvrl": ["encoder.width=4", "method.hidden=32", "method.dim=16"],
    "rspnet": ["encoder.width=4", "method.queue=16", "method.dim=16"],
    "video_classify": [*VIT, "test.clips=1", "test.crops=1"],
    "selfie": ["method.patch=4"],
}
"""Settings of single recipes on top of those of their modality."""


def small(recipe: Recipe, folder: Path) -> list[str]:
    """Settings that make any recipe tiny, on procedural data."""
    extra = EXTRA.get(recipe.name, [])
    if recipe.modality == "LiDAR":
        return [*LOOP, *STREET, "train.batch_size=2", *(extra or VOXELS)]
    if recipe.modality == "object clouds":
        return [*LOOP, *OBJECTS, "train.batch_size=4", *extra]
    if recipe.modality == "video":
        clips = ["data.motion.train=18", "data.motion.val=9", f"data.motion.folder={folder / 'motion'}", "train.batch_size=4"]
        return [*LOOP, *clips, *extra]
    pictures = "data.fractals={classes: 3, train: 6, val: 3, size: 24, points: 1500}"
    return [*LOOP, pictures, "augment.size=16", "train.batch_size=6", *_small_image_parts(resolve(recipe, [])), *extra]


def _small_image_parts(config: Any) -> list[str]:
    found = []
    for field in fields(config):
        part = getattr(config, field.name)
        vit = ["dim=32", "depth=2", "heads=2", "patch=4"]
        if isinstance(part, ImageViTConfig):
            found += [f"{field.name}.{one}" for one in vit]
        elif isinstance(part, ImageEncoderConfig):
            found += [f"{field.name}.vit.{one}" for one in vit] + [f"{field.name}.{one}" for one in ("depth=18", "width=8", "stem=small")]
        elif isinstance(part, ImageDecoderConfig):
            found += [f"{field.name}.{one}" for one in ("dim=16", "depth=1", "heads=2")]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Path:
    """A finished run for the methods that need one."""
    recipe = next(recipe for recipe in RECIPES if recipe.name == "videomae")
    assert main(["pretrain", "videomae", *small(recipe, folder), f"run.dir={folder / 'teacher'}"]) == 0
    return folder / "teacher"


UNTRAINED = {"mv_jar": "refine.", "voxel_mae": "refine."}
"""Parts a method cannot train: SST's convolutions stand after its tokens, on the dense map of detection, and masked tokens never get there."""

CONTRACT = [recipe for recipe in RECIPES if recipe.name != "video_actions"]  # needs an AVA csv of its own: tests/video/tasks/test_actions.py


@pytest.mark.parametrize("recipe", CONTRACT, ids=lambda recipe: recipe.name)
def test_recipe(recipe: Recipe, folder: Path, request: pytest.FixtureRequest) -> None:
    settings = small(recipe, folder)
    if "finished" in recipe.needs:
        settings.append(f"init={request.getfixturevalue('teacher')}")
    runs = [folder / f"{recipe.name}_{letter}" for letter in "ab"]
    for run in runs:
        assert main([recipe.stage, recipe.name, *settings, f"run.dir={run}"]) == 0
    first, second = ([row["loss"] for row in read_json_lines(run / "metrics.jsonl") if row["kind"] == "train"] for run in runs)
    assert len(first) == STEPS and np.isfinite(first).all(), first
    assert first == second, "the same seed gives the same losses"
    said = json.loads((runs[0] / "provenance.json").read_text())
    assert said["stage"] == recipe.stage
    if recipe.stage == "pretrain":
        assert said["labels"] == "none"

    task = resolve(recipe, settings).task()
    before = {name: value.clone() for name, value in task.model.encoder.state_dict().items()}
    saved = read_checkpoint(runs[0] / "encoder.safetensors")
    task.model.encoder.load_state_dict(saved)  # strict: every name and shape
    assert any(not torch.equal(before[name], value) for name, value in task.model.encoder.state_dict().items())
    checkpoint = torch.load(runs[0] / f"checkpoints/step_{STEPS:08d}.pt", weights_only=True)
    task.model.load_state_dict(checkpoint["model"])
    held = task.model.encoder.state_dict()
    assert held.keys() == saved.keys() and all(torch.equal(held[name], saved[name]) for name in saved)


@pytest.mark.parametrize("recipe", CONTRACT, ids=lambda recipe: recipe.name)
def test_gradients_reach_the_whole_encoder(recipe: Recipe, folder: Path, request: pytest.FixtureRequest) -> None:
    settings = small(recipe, folder)
    if "finished" in recipe.needs:
        settings.append(f"init={request.getfixturevalue('teacher')}")
    config = resolve(recipe, settings)
    seed_everything(0)
    task = config.task()
    model = task.model.train()
    size = config.train.batch_size
    reached: set[str] = set()
    skipped = UNTRAINED.get(recipe.name)
    trained = model.encoder if any(value.requires_grad for value in model.encoder.parameters()) else model.student  # else the encoder is a teacher
    parameters = {name: value for name, value in trained.named_parameters() if value.requires_grad and not (skipped and name.startswith(skipped))}
    assert parameters
    for step in range(2):
        samples = [task.train.get(index % len(task.train), np.random.default_rng(index)) for index in range(step * size, (step + 1) * size)]
        output = model(task.train.collate(samples, list(range(size))))
        assert output.loss.isfinite()
        output.loss.backward()
        with torch.no_grad():
            for name, value in parameters.items():
                if value.grad is not None and value.grad.abs().sum() > 0:
                    reached.add(name)
                    value -= 1e-2 * value.grad  # scales and last norms that start at zero let nothing through before they move
    silent = sorted(set(parameters) - reached)
    assert len(silent) <= 0.1 * len(parameters) and "cls_token" not in silent, f"no gradient at {silent[:8]}"


def test_every_recipe_has_a_configuration_and_tells_its_paper() -> None:
    for recipe in RECIPES:
        assert (CONFIGS / f"{recipe.name}.yaml").is_file(), recipe.name
        assert recipe.paper and recipe.family and recipe.needs and recipe.checked
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)
