"""Scenes with pixel labels, folders in the usual layouts, and ``suite3d evaluate RUN segmentation``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite3d.cli import main
from suite3d.image.data.scenes import MATERIALS, SceneConfig, Scenes
from suite3d.image.data.segmented import segmented_folder
from suite3d.image.recipes.segmentation import SegmentationConfig, segment
from suite3d.image.views import ViewConfig
from suite3d.report.png import write_png

CPU = torch.device("cpu")


def test_scenes_are_functions_of_the_index_and_show_their_labels() -> None:
    config = SceneConfig(train=40, val=4, size=48)
    train = Scenes(config)
    again = Scenes(config)
    assert len(train) == 40 and len(Scenes(config, "val")) == 4
    seen = set()
    for index in range(40):
        picture, labels = train.picture(index), train.labels(index)
        assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8 and labels.shape == (48, 48)
        assert (again.picture(index) == picture).all() and (again.labels(index) == labels).all()
        seen |= set(np.unique(labels).tolist())
        # The ground is smooth: neighbours inside of it differ little, those of textured materials much.
        step = np.abs(np.diff(picture.astype(int), axis=1)).sum(axis=2)
        away = np.all([np.roll(labels, (dy, dx), (0, 1)) == 0 for dy in range(-2, 3) for dx in range(-2, 3)], axis=0)
        assert step[away[:, 1:]].max(initial=0) <= 20 and (index or away.any())
    assert seen == set(range(len(MATERIALS)))
    for other in (Scenes(config, "val"), Scenes(SceneConfig(size=48, seed=1))):
        assert (other.picture(0) != train.picture(0)).any()
    with pytest.raises(ValueError, match="at least one picture"):
        SceneConfig(objects=(3, 2))


def grey(path: Path, values: NDArray[np.int64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, values.astype(np.uint8))


def colour(path: Path, values: NDArray[np.int64]) -> None:
    """A picture whose colour says its label, also where it does not count."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.zeros((256, 3), np.uint8)
    table[[3, 5, 9]] = [[250, 20, 20], [20, 250, 20], [20, 20, 250]]
    write_png(path, table[np.repeat(values[-1:], len(values), axis=0)])


def halves(seed: int) -> NDArray[np.int64]:
    """Stripes of the labels 3, 5, 9 with a corner that does not count."""
    values = np.random.default_rng(seed).permutation([3, 5, 9]).repeat(8)[None].repeat(16, axis=0)  # [16, 24]
    values[:3, :3] = 255
    return values


def layout(root: Path, kind: str) -> None:
    for number in range(10):
        name, values = f"{number:03d}", halves(number)
        part = "training" if number < 7 else "validation"
        if kind == "ade":
            colour(root / "images" / part / f"{name}.png", values)
            grey(root / "annotations" / part / f"{name}.png", values)
        elif kind == "voc":
            colour(root / "JPEGImages" / f"{name}.png", values)
            if number:
                grey(root / "SegmentationClass" / f"{name}.png", values)
        else:
            colour(root / "images" / f"{name}.png", values)
            grey(root / "masks" / f"{name}.png", values)
    if kind == "voc":
        (root / "ImageSets/Segmentation").mkdir(parents=True)
        (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{number:03d}\n" for number in range(7)))
        (root / "ImageSets/Segmentation/val.txt").write_text("007\n008\n")


@pytest.mark.parametrize(("kind", "sizes"), [("ade", (7, 3)), ("voc", (6, 2)), ("flat", (8, 2))])
def test_folders_are_paired_by_name(kind: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    layout(tmp_path, kind)
    train, test = segmented_folder(tmp_path)
    assert (len(train), len(test)) == sizes and not {train.name(i) for i in range(len(train))} & {test.name(i) for i in range(len(test))}
    for row in range(len(train)):
        values = halves(int(train.name(row).removesuffix(".png")))
        assert (train.labels(row) == values).all() and train.picture(row).shape == (16, 24, 3)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the folders images"):
        segmented_folder(tmp_path)
    colour(tmp_path / "images/a.png", halves(0))
    grey(tmp_path / "masks/b.png", halves(0))
    with pytest.raises(ValueError, match="no file name in common"):
        segmented_folder(tmp_path)
    grey(tmp_path / "masks/deep/b.png", halves(0))
    with pytest.raises(ValueError, match="share their name"):
        segmented_folder(tmp_path)


class MeanColour(nn.Module):
    """Places of 4 x 4 pixels, described by their mean colour."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 4).flatten(2).transpose(1, 2)


def test_colours_label_what_colours_define(tmp_path: Path) -> None:
    layout(tmp_path, "flat")
    (tmp_path / "images/000.png").write_bytes(b"no picture")
    config = SegmentationConfig(root=tmp_path, references=(1, 0, 50), size=64, draws=2, neighbours=3)
    entry = segment(MeanColour(), config, augment=ViewConfig(size=64), device=CPU, seed=0)
    found = entry["metrics"]
    names = [f"{score}, {kind}" for kind in ("1 reference", "all references") for score in ("mIoU", "pixel accuracy")]
    assert list(found) == [*names, "mIoU, limit", "mIoU, majority"]
    assert len(entry["draws"]["1 reference"]) == 2 and len(entry["draws"]["all references"]) == 1
    assert found["mIoU, limit"] == 100 == found["mIoU, all references"] == found["mIoU, 1 reference"]
    assert found["mIoU, majority"] < 40 and len(entry["skipped"]) == 1 and "3 classes" in entry["protocol"]["in short"]
    assert "held out by a hash" in entry["protocol"]["data"] and "[255] do not count" in entry["protocol"]["mIoU"]
    fewer = segment(MeanColour(), SegmentationConfig(root=tmp_path, size=64, ignore=(9, 255)), augment=ViewConfig(), device=CPU, seed=0)
    assert "2 classes" in fewer["protocol"]["in short"]
    with pytest.raises(ValueError, match="2 to 255 values"):
        segment(MeanColour(), SegmentationConfig(root=tmp_path, size=64, ignore=(5, 9, 255)), augment=ViewConfig(), device=CPU, seed=0)


class Roughness(nn.Module):
    """Places of 8 x 8 pixels, described by what the eye tells materials apart by: the mean size of steps near and two pixels away."""

    def forward(self, x: Tensor) -> Tensor:
        grey = nn.functional.pad(x.mean(dim=1, keepdim=True), (3, 3, 3, 3), mode="replicate")
        middle = grey[:, :, 3:-3, 3:-3]
        shifts = [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2), (0, 3), (3, 0)]
        moved = [grey[:, :, 3 + dy : grey.shape[2] - 3 + dy, 3 + dx : grey.shape[3] - 3 + dx] for dy, dx in shifts]
        steps = nn.functional.avg_pool2d(torch.cat([(middle - one).abs() for one in moved], dim=1), 8)
        return torch.cat([steps, torch.full_like(steps[:, :1], 0.2)], dim=1).flatten(2).transpose(1, 2)


def test_texture_says_which_material_it_is() -> None:
    config = SegmentationConfig(scenes=SceneConfig(train=40, val=12), references=(0, 1), neighbours=8)
    entry = segment(Roughness(), config, augment=ViewConfig(size=64), device=CPU, seed=0)
    found = entry["metrics"]
    assert found["mIoU, limit"] > found["mIoU, all references"] > 2.5 * found["mIoU, majority"]
    assert found["mIoU, all references"] > found["mIoU, 1 reference"]
    again = segment(Roughness(), config, augment=ViewConfig(size=64), device=CPU, seed=0)
    assert again["metrics"] == found


def test_runs_are_evaluated_on_scenes_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout(tmp_path / "data", "ade")
    small = ["data.fractals={classes: 2, train: 4, val: 2, size: 24, points: 500}", "augment.size=24", "train.steps=1", "train.batch_size=4"]
    small += ["train.workers=0", "encoder.dim=24", "encoder.depth=1", "encoder.heads=2", "decoder.dim=16", "decoder.depth=1", "decoder.heads=2"]
    run = tmp_path / "run"
    assert main(["pretrain", "mae", *small, "encoder.patch=8", "train.probe_every=0", f"run.dir={run}"]) == 0
    assert main(["evaluate", str(run), "segmentation", "segmentation.scenes={train: 6, val: 3, size: 32}", "random=true"]) == 0
    entries = json.loads((run / "evaluate/result.json").read_text())["entries"]
    assert [entry["weights"] for entry in entries] == ["encoder", "random weights"] and "synthetic" in entries[0]["protocol"]["data"]
    assert main(["evaluate", str(run), "segmentation", f"segmentation.root={tmp_path / 'data'}", "segmentation.references=[1]"]) == 0
    assert "mIoU, 1 reference" in capsys.readouterr().out
    assert main(["evaluate", str(run), "segmentation", f"segmentation.root={tmp_path}"]) == 2
    assert "none of the folders images" in capsys.readouterr().err
