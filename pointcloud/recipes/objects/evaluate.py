"""``suite3d evaluate RUN knn,linear,...`` for object runs: what frozen features are worth, each number with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from suite3d.config import ConfigError, load_config, stored_parts
from suite3d.engine.distributed import pick_device
from suite3d.engine.once import each_once
from suite3d.engine.order import seed_everything
from suite3d.evaluate import protocols
from suite3d.evaluate.features import FeatureSet, cached_features, weights_digest
from suite3d.evaluate.online import labels_of
from suite3d.evaluate.protocols import Entry, Frozen, PooledConfig, check_kinds, evaluate_benches
from suite3d.interop.load import read_checkpoint
from suite3d.interop.save import read_metadata
from suite3d.pointcloud.data.objects.source import ObjectSource
from suite3d.pointcloud.data.objects.views import ObjectViewConfig
from suite3d.pointcloud.encoders.point_patch import PointPatchConfig, PointPatchTransformer
from suite3d.pointcloud.recipes.objects.data import ObjectDataConfig, build_objects, describe_objects, has_validation
from suite3d.pointcloud.recipes.objects.probe import plain_view

FEATURES = "frozen encoder; class token (where there is one), maximum and mean over the patches of the whole object in the unit sphere"


@dataclass(kw_only=True)
class FrozenObjectsConfig(PooledConfig):
    """Evaluation of frozen features.

    Attributes:
        data: the objects; by default those of the run.
        augment: its ``points`` are the points of an object; the object is taken whole and as it is.
        random: also evaluate the same network with random weights.
        knn, linear, fewshot, retrieval, svm, ridge: the protocols.
        batch, workers, device: of the encoder's pass over the objects.
        out: where ``result.json`` and the features go; empty = ``RUN/evaluate``.
        seed: of probes and of the random weights.
    """

    data: ObjectDataConfig = field(default_factory=ObjectDataConfig)
    augment: ObjectViewConfig = field(default_factory=ObjectViewConfig)
    random: bool = False
    batch: int = 64
    workers: int = 0
    device: str = "auto"
    out: Path = Path("")
    seed: int = 0


@dataclass(kw_only=True)
class ObjectBench:
    """An encoder on labelled objects; ``weights``: its digest, the key of kept features."""

    encoder: PointPatchTransformer
    train: ObjectSource
    test: ObjectSource
    classes: int
    config: FrozenObjectsConfig
    device: torch.device
    cache: Path
    weights: str = ""

    def __post_init__(self) -> None:
        self.weights = self.weights or weights_digest(self.encoder)

    def frozen(self) -> Frozen:
        """One vector an object."""
        train, test = self._features(self.train), self._features(self.test)
        config = self.config
        details = {
            "features": FEATURES,
            "points": f"{config.augment.points} drawn at random, no vote",
            "data": f"{describe_objects(config.data)}; {len(train)} training and {len(test)} test objects, {self.classes} classes",
        }
        return Frozen(
            train=train, test=test, classes=self.classes, kind="objects", views="one view", details=details, device=self.device, seed=config.seed
        )

    def _features(self, source: ObjectSource) -> FeatureSet:
        key = {
            "weights": self.weights,
            "objects": [source.name(index) for index in range(len(source))],
            "data": asdict(self.config.data),
            "points": self.config.augment.points,
            "form": "described",
        }
        extract = lambda: extract_objects(self.encoder, source, device=self.device, batch=self.config.batch, workers=self.config.workers)  # noqa: E731
        return cached_features(self.cache, key, extract)


@torch.no_grad()
def extract_objects(encoder: PointPatchTransformer, source: ObjectSource, *, device: torch.device, batch: int, workers: int) -> FeatureSet:
    """``encoder.described`` of every object, in order; broken ones are left out and named. Raises ValueError where none can be read."""
    features, labels, names, skipped = [], [], [], []
    for part in each_once(source, range(len(source)), batch_size=batch, workers=workers):
        skipped += part.skipped
        if part.batch is not None:
            features.append(encoder.described(part.batch.views[0].to(device)).float().cpu())
            labels.append(part.batch.labels)
            names += part.batch.names
    if not names:
        raise ValueError(f"no object could be read; the first problems: {skipped[:3]}")
    return FeatureSet(features=torch.cat(features), labels=torch.cat(labels), names=names, groups=names, skipped=skipped)


PROTOCOLS: dict[str, Callable[[ObjectBench], Entry]] = {**protocols.POOLED}


def evaluate_objects(run: Path, kinds: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """Evaluate the encoder of a run; write ``result.json`` and return it.

    Args:
        run: run directory.
        kinds: some of :data:`PROTOCOLS`.
        overrides: ``key=value`` for :class:`FrozenObjectsConfig`.

    Raises:
        ConfigError: unknown kinds or keys, data without labels, an encoder that does not fit.
    """
    check_kinds(kinds, PROTOCOLS)
    config = frozen_config(run, overrides)
    device = pick_device(config.device)
    encoders = {"encoder": load_frozen(run)}
    if config.random:
        seed_everything(config.seed)
        encoders["random weights"] = PointPatchTransformer(encoders["encoder"].config).eval()
    train, test, classes = labelled_sides(config, encoders["encoder"].config.channels)
    out = config.out if config.out != Path("") else run / "evaluate"
    benches = {
        name: ObjectBench(encoder=network.to(device), train=train, test=test, classes=classes, config=config, device=device, cache=out / "features")
        for name, network in encoders.items()
    }
    return evaluate_benches(run, benches, kinds, PROTOCOLS, out, asdict(config))


def labelled_sides(config: FrozenObjectsConfig, channels: tuple[str, ...]) -> tuple[ObjectSource, ObjectSource, int]:
    """Labelled training and test objects, one plain view each, and the number of classes.

    Raises:
        ConfigError: no labels, or no test objects of their own.
    """
    train = build_objects(config.data, channels=channels)
    if len(train.classes) < 2:
        raise ConfigError("these objects have no labels of two classes: give class folders with data.root=FOLDER")
    if not has_validation(config.data):
        raise ConfigError(
            f"{config.data.root} has no test objects to score on: lay out ROOT/train and ROOT/test, or give lists *train.txt and *test.txt"
        )
    test = build_objects(config.data, validation=True, classes=train.classes, channels=channels)
    view = plain_view(config.augment.points)
    rows = [[row for row, label in enumerate(labels_of(objects)) if label is not None] for objects in (train, test)]
    sides = [ObjectSource(objects, [view], indices=part, channels=channels) for objects, part in zip((train, test), rows)]
    return sides[0], sides[1], len(train.classes)


def frozen_config(run: Path, overrides: Sequence[str]) -> FrozenObjectsConfig:
    """The defaults, what the run was trained with (objects and points), and the overrides on top."""
    try:
        base = load_config(FrozenObjectsConfig, overrides=stored_parts(run / "config.yaml", ("data", "augment")))
    except ConfigError as error:
        raise ConfigError(f"{run} was not trained on objects: {error}") from error
    return load_config(base, overrides=overrides)  # type: ignore[arg-type]


def load_frozen(run: Path) -> PointPatchTransformer:
    """The encoder of a run directory or of its ``encoder.safetensors``, in evaluation mode, without gradients. Raises ConfigError."""
    file = run / "encoder.safetensors" if run.is_dir() else run
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; expected a run directory with a finished or saved pretraining")
    description = read_metadata(file).get("description", {})
    if description.get("class") != "PointPatchTransformer":
        raise ConfigError(f"{file}: expected the weights of a PointPatchTransformer, got {description.get('class')}")
    encoder = PointPatchTransformer(PointPatchConfig(**description["config"]))
    encoder.load_state_dict(read_checkpoint(file))
    return encoder.eval().requires_grad_(False)
