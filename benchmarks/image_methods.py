"""The image methods side by side: equal encoder, equal steps, kNN and linear on frozen features, over seeds, beside random and supervised.

    python benchmarks/image_methods.py [--data digits] [--steps 300] [--seeds 3] [--only NAME ...] [--json FILE] [--sheet FILE.png]

Data are scikit-learn's digits (real, 8 x 8 pixels, shown at 16) or procedural fractals (synthetic, 8 classes, 32 pixels), in patches of 4.
Every method trains on the training pictures without labels; probes fit on them with labels and score the validation pictures. Methods that
take tokens or any encoder use one small vision transformer; those that need a map of features use one small ResNet-18: compare within an
encoder. Recipes are those of ``configs/``, whose learning rates were not tuned for this table. Finished runs are kept under ``--runs`` and not
trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from numpy.typing import NDArray
from torch import Tensor, nn

from suite3d.config import ConfigError
from suite3d.engine.files import read_json_lines, write_json
from suite3d.engine.order import seed_everything
from suite3d.evaluate import protocols
from suite3d.evaluate.linear import LinearConfig
from suite3d.evaluate.protocols import KnnConfig
from suite3d.evaluate.statistics import mean_interval
from suite3d.image.data.batch import ImageBatch
from suite3d.image.data.source import ImageSource
from suite3d.image.recipes.base import ImageViewsRecipe
from suite3d.image.recipes.data import build_images
from suite3d.image.recipes.encoder import ImageEncoderConfig, ImageViTConfig, load_frozen
from suite3d.image.recipes.evaluate import FrozenImagesConfig, ImageBench
from suite3d.image.recipes.probe import plain_view
from suite3d.nn.pooling import pooled_features
from suite3d.output import Output
from suite3d.recipes import RECIPES, Recipe, find_recipe, resolve, run
from suite3d.report.canvas import Canvas
from suite3d.report.png import write_png
from suite3d.report.text import print_table

DATA = {
    "digits": ["data.kind=digits", "augment.size=16", "augment.flip=0", "augment.area=[0.6,1.0]"],
    "fractals": [
        "data.kind=fractals",
        "data.fractals={classes: 8, train: 200, val: 50, size: 32, points: 8000}",
        "augment.size=32",
        "augment.area=[0.5,1.0]",
    ],
}
BATCH = 32
TRANSFORMER = ["dim=64", "depth=3", "heads=2", "patch=4"]
NETWORK = ["depth=18", "width=8", "stem=small"]
CLASS_TOKEN = ("dino", "ibot", "mugs")
"""Methods that compare class tokens and therefore need one."""
SHARP = ["method.targets=sinkhorn", "method.teacher_temperature=[0.01,0.01]", "method.prototypes=32"]
SETTINGS = {"selfie": ["method.patch=4"], "swav": ["method.eps=0.01", "method.prototypes=16"], "dino": SHARP, "ibot": SHARP, "mugs": SHARP}
"""So small an encoder gives all pictures nearly the same cosines: balanced, sharp assignments tell them apart within some hundred steps. With the
settings of ``configs/`` the assignments stay even that long (a loss of log K)."""
NOTES = {
    "rotnet": "fractals have no up and down to tell",
    "siam_mae": "needs two pictures of each scene",
    "croco": "needs two pictures of each scene",
    "swav": "sharper, fewer prototypes than in configs/",
    **dict.fromkeys(("dino", "ibot", "mugs"), "balanced (Sinkhorn), sharper, fewer prototypes than in configs/"),
}
LONGER: dict[str, dict[str, str]] = {
    "digits": {
        "cae": "68.9 / 79.4 after 1600 steps",
        "cmim": "88.9 / 86.1 after 1600 steps",
        "gmml": "61.4 / 77.8 after 1600 steps",
        "ibot": "66.7 / 76.9 after 1600 steps",
        "seq_jepa": "60.3 / 78.9 after 1600 steps",
    },
    "fractals": {
        "barlow_twins": "34.5 / 60.0 after 900 steps",
        "colormae": "25.5 / 46.0 after 900 steps",
        "crop_mae": "26.0 / 47.8 after 900 steps",
        "croco": "22.5 / 47.3 after 900 steps",
        "gmml": "19.3 / 42.0 after 900 steps, no better yet",
        "lejepa": "21.0 / 49.5 after 900 steps",
        "mae": "26.3 / 50.8 after 900 steps",
        "mixed_ae": "23.5 / 46.3 after 900 steps",
        "siam_mae": "29.8 / 45.3 after 900 steps",
        "spark": "25.0 / 35.5 after 900 steps",
        "swav": "28.5 / 51.5 after 900 steps",
    },
}
"""kNN / linear of seed 0 after more steps: what becomes of methods that stand below random features here."""
FRACTALS_BELOW = {
    "ViT 3 x 64": "below random features, whose kNN is that of colour statistics (their row): those go before shapes come",
    "ResNet-18/8": "below random features, by less than these differ between seeds",
}


class ColourStatistics(nn.Module):
    """Mean and deviation of each channel: what a picture's pooled features know before anything is learnt."""

    def pooled(self, x: Tensor) -> Tensor:
        """``(B, 2 C)`` of pixels ``(B, C, H, W)``."""
        return torch.cat((x.mean((2, 3)), x.std((2, 3))), dim=1)


class Supervised(nn.Module):
    """The same encoder trained with the labels, cross-entropy on pooled features of both views."""

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(int(encoder.embed_dim), classes)  # type: ignore[arg-type]

    def forward(self, batch: ImageBatch) -> Output:
        features = pooled_features(self.encoder, torch.cat((batch.pixels(0), batch.pixels(1))))
        return Output(loss=nn.functional.cross_entropy(self.head(features), batch.labels.repeat(2)), features=features.detach())


@dataclass(kw_only=True)
class SupervisedRecipe(ImageViewsRecipe):
    """What labels would give."""

    encoder: ImageEncoderConfig = field(default_factory=lambda: ImageEncoderConfig(kind="vit"))
    base_lr: float = 4e-3

    def build_method(self, encoder: nn.Module) -> nn.Module:
        return Supervised(encoder, len(build_images(self.data).classes))


def supervised() -> Recipe:
    """The recipe above, found as a user's own."""
    return find_recipe(f"{Path(__file__).resolve()}:SupervisedRecipe", "pretrain")


def settings_of(recipe: Recipe, data: str, kind: str) -> list[str]:
    """The small encoder, whatever the recipe calls its parts."""
    found = list(DATA[data])
    config = resolve(recipe, [])
    for part in fields(config):
        value = getattr(config, part.name)
        if isinstance(value, ImageViTConfig):
            found += [f"{part.name}.{one}" for one in TRANSFORMER]
        elif isinstance(value, ImageEncoderConfig):
            found += [f"{part.name}.kind={kind}"] + [f"{part.name}.{one}" for one in NETWORK]
            token = [] if recipe.name in CLASS_TOKEN else ["class_token=false"]
            found += [f"{part.name}.vit.{one}" for one in (*token, *TRANSFORMER)]
        elif part.name == "local":
            found += ["local.size=8", "local.area=[0.5,0.9]"] if data == "digits" else []
        elif part.name == "encoder":
            found += [f"encoder.{one}" for one in NETWORK]
    return found + SETTINGS.get(recipe.name, [])


def configure(recipe: Recipe, data: str, folder: Path, seed: int, steps: int) -> tuple[Any, str]:
    """The recipe with the small transformer, or with the small network where the method needs a map; and which of the two it is."""
    loop = [f"train.steps={steps}", f"train.seed={seed}", "train.workers=0", "train.log_every=50", "train.probe_every=0", "train.visual_every=0"]
    reason = ""
    for kind in ("vit", "resnet"):
        place = folder / f"{recipe.name}_{seed}"
        try:
            config = resolve(recipe, [*settings_of(recipe, data, kind), *loop, f"run.dir={place}", f"train.batch_size={BATCH}"])
            with torch.random.fork_rng():
                config.task()
        except (ConfigError, ValueError) as error:
            reason = str(error)
            continue
        conv = not isinstance(getattr(config, "encoder", None), ImageViTConfig) and getattr(config.encoder, "kind", "resnet") != "vit"
        return config, "ResNet-18/8" if conv else "ViT 3 x 64"
    raise ConfigError(reason)


def score(encoder: nn.Module, config: Any, seed: int) -> dict[str, float]:
    """kNN and linear accuracy in percent."""
    frozen = FrozenImagesConfig(data=config.data, augment=config.augment, seed=seed)
    sides = [ImageSource(build_images(config.data, validation=side), [plain_view(config.augment)]) for side in (False, True)]
    bench = ImageBench(
        encoder=encoder.eval(),
        train=sides[0],
        test=sides[1],
        classes=len(build_images(config.data).classes),
        config=frozen,
        device=torch.device("cpu"),
        cache=config.run.dir / "features",
    )
    features = bench.frozen()
    knn = protocols.knn(features, KnnConfig(k=(20,)))["metrics"]["k=20 top-1"]
    linear = protocols.linear(features, LinearConfig(epochs=30, batch_size=256))["metrics"]["top-1"]
    return {"knn": knn, "linear": linear}


def one(recipe: Recipe, data: str, folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train (or find) one run and score it."""
    kept = folder / f"{recipe.name}_{seed}" / "scores.json"
    if kept.is_file():
        stored: dict[str, Any] = json.loads(kept.read_text())
        return stored
    config, kind = configure(recipe, data, folder, seed, steps)
    start = time.process_time()
    run(config)
    seconds = time.process_time() - start
    news = [row["message"] for row in read_json_lines(config.run.dir / "metrics.jsonl") if row["kind"] == "event"]
    found = {"encoder": kind, "cpu_ms_per_step": round(1000 * seconds / steps, 1), **score(load_frozen(config.run.dir), config, seed)}
    found["monitor"] = [message for message in news if "collapse" in message]
    write_json(kept, found)
    return found


def untrained(data: str, folder: Path, seed: int, kind: str) -> dict[str, Any]:
    """The encoder before its first step."""
    recipe = supervised()
    config = resolve(recipe, [*settings_of(recipe, data, kind), f"run.dir={folder / f'random_{kind}_{seed}'}"])
    seed_everything(seed)
    return {"encoder": "ViT 3 x 64" if kind == "vit" else "ResNet-18/8", "cpu_ms_per_step": 0.0, **score(config.build_encoder(), config, seed)}


def statistics_row(data: str, folder: Path) -> dict[str, Any]:
    """Colour statistics as features; no seed changes them."""
    recipe = supervised()
    config = resolve(recipe, [*settings_of(recipe, data, "vit"), f"run.dir={folder / 'colour_statistics'}"])
    return {"encoder": "none", "cpu_ms_per_step": 0.0, **score(ColourStatistics(), config, 0)}


def sheet(names: list[str], data: str, folder: Path, steps: int, path: Path) -> None:
    """What every method hides and rebuilds, one picture a method."""
    shown: list[tuple[str, NDArray[np.uint8]]] = []
    for name in names:
        config, _ = configure(find_recipe(name, "pretrain"), data, folder, 0, steps)
        task = config.task()
        stored = folder / f"{name}_0" / f"checkpoints/step_{steps:08d}.pt"
        if stored.is_file():
            task.model.load_state_dict(torch.load(stored, weights_only=True)["model"])
        samples = [task.train.get(index, np.random.default_rng(index)) for index in range(8)]
        output = task.model.train()(task.train.collate(samples, list(range(8))))
        pictures = output.visuals() if output.visuals is not None else {}
        shown += [(f"{name}: {title}", picture) for title, picture in pictures.items() if isinstance(picture, np.ndarray) and picture.ndim == 3]
    if shown:
        write_png(path, shelves(shown))


def shelves(shown: list[tuple[str, NDArray[np.uint8]]], *, width: int = 1200, gap: int = 8, title: int = 12) -> NDArray[np.uint8]:
    """Titled pictures beside one another in rows, each row as high as its highest."""
    places: list[tuple[int, int]] = []
    top = left = height = 0
    for name, picture in shown:
        wide = max(picture.shape[1], 6 * len(name)) + gap
        if left and left + wide > width:
            top, left, height = top + height, 0, 0
        places.append((top, left))
        left, height = left + wide, max(height, picture.shape[0] + title + gap)
    right = max(place + max(picture.shape[1], 6 * len(name)) for (_, place), (name, picture) in zip(places, shown, strict=True))
    canvas = Canvas((top + height, right))
    for (y, x), (name, picture) in zip(places, shown, strict=True):
        canvas.text(x, y, name, (220, 220, 220))
        canvas.pixels[y + title : y + title + picture.shape[0], x : x + picture.shape[1]] = picture
    return canvas.image()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(DATA), default="digits")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/image_methods"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    folder = arguments.runs / f"{arguments.data}_{arguments.steps}"
    names = [recipe.name for recipe in RECIPES if recipe.modality == "image" and (not arguments.only or recipe.name in arguments.only)]
    rows: dict[str, list[dict[str, Any]]] = {"colour statistics": [statistics_row(arguments.data, folder)]}
    left_out: dict[str, str] = {}
    for kind in ("vit", "resnet"):
        rows[f"random features ({kind})"] = [untrained(arguments.data, folder, seed, kind) for seed in range(arguments.seeds)]
    for name, recipe in [("supervised", supervised())] + [(name, find_recipe(name, "pretrain")) for name in names]:
        try:
            rows[name] = [one(recipe, arguments.data, folder, seed, arguments.steps) for seed in range(arguments.seeds)]
        except (ConfigError, ValueError) as error:
            left_out[name] = str(error).splitlines()[0]
    chance = {row[0]["encoder"]: np.mean([seed["knn"] for seed in row]) for name, row in rows.items() if name.startswith("random")}
    table = []
    for name, found in sorted(rows.items(), key=lambda item: -float(np.mean([seed["knn"] for seed in item[1]]))):
        knn, linear = ([seed[key] for seed in found] for key in ("knn", "linear"))
        worse = np.mean(knn) < chance.get(found[0]["encoder"], 0.0)
        longer = LONGER[arguments.data].get(name)
        below = FRACTALS_BELOW.get(found[0]["encoder"], "") if arguments.data == "fractals" else "below random features"
        said = [
            NOTES.get(name, ""),
            f"{longer} (seed 0)" if longer else "",
            below if worse and not name.startswith("random") else "",
            "the monitor called a collapse" if any(seed.get("monitor") for seed in found) else "",
        ]
        note = "; ".join(filter(None, said))
        table.append([name, found[0]["encoder"], str(mean_interval(knn)), str(mean_interval(linear)), f"{found[0]['cpu_ms_per_step']:.0f}", note])
    print_table({"columns": ["method", "encoder", "kNN top-1, %", "linear top-1, %", "CPU ms a step", "note"], "rows": table})
    for name, reason in left_out.items():
        print(f"{name} left out: {reason}")
    if arguments.json:
        write_json(
            arguments.json,
            {
                **describe(),
                "data": arguments.data,
                "steps": arguments.steps,
                "rows": rows,
                "left out": left_out,
                "notes": {row[0]: row[-1] for row in table},
            },
        )
    if arguments.sheet:
        sheet([name for name in names if name in rows], arguments.data, folder, arguments.steps, arguments.sheet)


if __name__ == "__main__":
    main()
