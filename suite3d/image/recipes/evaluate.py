"""``suite3d evaluate RUN knn,linear,...`` for image runs: what frozen features are worth, each number with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suite3d.config import ConfigError, load_config, stored_parts
from suite3d.engine.distributed import pick_device
from suite3d.engine.once import each_once
from suite3d.engine.order import seed_everything
from suite3d.evaluate import protocols
from suite3d.evaluate.attentive import AttentiveConfig, attentive_probe
from suite3d.evaluate.features import FeatureSet, cached_features, weights_digest
from suite3d.evaluate.protocols import Entry, Frozen, PooledConfig, check_kinds, evaluate_benches
from suite3d.image.data.sets import ImageSet
from suite3d.image.data.source import ImageSource
from suite3d.image.recipes.data import ImageDataConfig, build_images, describe_images, has_validation
from suite3d.image.recipes.diagnostics import DiagnosticsConfig, diagnose
from suite3d.image.recipes.encoder import load_frozen, rebuild_encoder
from suite3d.image.recipes.probe import plain_view
from suite3d.image.recipes.propagation import TrackingConfig, labelled_tracks, propagate
from suite3d.image.recipes.segmentation import SegmentationConfig, segment
from suite3d.image.views import ViewConfig
from suite3d.interop.save import read_metadata
from suite3d.nn.pooling import pooled_features


@dataclass(kw_only=True)
class FrozenImagesConfig(PooledConfig):
    """Evaluation of frozen features.

    Attributes:
        data: the pictures; by default those of the run.
        augment: size, mean and deviation of the pixels; the middle square of each picture is taken.
        random: also evaluate the same network with random weights.
        knn, linear, fewshot, retrieval, svm, ridge, attentive, diagnostics, propagation, segmentation: the protocols.
        batch, workers, device: of the encoder's pass over the pictures.
        out: where ``result.json`` and the features go; empty = ``RUN/evaluate``.
        seed: of probes and of the random weights.
    """

    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    augment: ViewConfig = field(default_factory=ViewConfig)
    random: bool = False
    attentive: AttentiveConfig = field(default_factory=AttentiveConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    propagation: TrackingConfig = field(default_factory=TrackingConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    batch: int = 64
    workers: int = 0
    device: str = "auto"
    out: Path = Path("")
    seed: int = 0


@dataclass(kw_only=True)
class ImageBench:
    """An encoder on labelled pictures; ``weights``: its digest, the key of kept features."""

    encoder: nn.Module
    train: ImageSource
    test: ImageSource
    classes: int
    config: FrozenImagesConfig
    device: torch.device
    cache: Path
    weights: str = ""

    def __post_init__(self) -> None:
        self.weights = self.weights or weights_digest(self.encoder)

    def frozen(self) -> Frozen:
        """One vector a picture."""
        train, test = (self._features(source, "pooled") for source in (self.train, self.test))
        config = self.config
        details = {
            "features": "frozen encoder, class token or mean over all places, of the middle square of a picture",
            "pixels": f"{config.augment.size} x {config.augment.size}",
            "data": f"{describe_images(config.data)}; {len(train)} training and {len(test)} test pictures, {self.classes} classes",
        }
        return Frozen(
            train=train, test=test, classes=self.classes, kind="pictures", views="one view", details=details, device=self.device, seed=config.seed
        )

    def tokens(self) -> tuple[FeatureSet, FeatureSet]:
        """All places of a picture, ``(n, 1, N, D)`` float16."""
        train, test = (self._features(source, "tokens") for source in (self.train, self.test))
        return train, test

    def _features(self, source: ImageSource, form: str) -> FeatureSet:
        view = self.config.augment
        key = {
            "weights": self.weights,
            "pictures": [source.name(index) for index in range(len(source))],
            "data": asdict(self.config.data),
            "pixels": [view.size, list(view.mean), list(view.std)],
            "form": form,
        }
        reduce: Callable[[Tensor], Tensor]
        if form == "pooled":
            reduce = lambda pixels: pooled_features(self.encoder, pixels)  # noqa: E731
        else:
            reduce = lambda pixels: self.encoder(pixels)[:, None].half()  # noqa: E731
        return cached_features(
            self.cache, key, lambda: extract(source, reduce, device=self.device, batch=self.config.batch, workers=self.config.workers)
        )


@torch.no_grad()
def extract(source: ImageSource, reduce: Callable[[Tensor], Tensor], *, device: torch.device, batch: int, workers: int) -> FeatureSet:
    """``reduce(pixels)`` of every picture, in order; broken ones are left out and named. Raises ValueError where none can be read."""
    features, labels, names, skipped = [], [], [], []
    for part in each_once(source, range(len(source)), batch_size=batch, workers=workers):
        skipped += part.skipped
        if part.batch is not None:
            features.append(reduce(part.batch.to(device).pixels()).cpu())
            labels.append(part.batch.labels)
            names += part.batch.names
    if not names:
        raise ValueError(f"no picture could be read; the first problems: {skipped[:3]}")
    return FeatureSet(
        features=torch.cat(features).float() if features[0].ndim == 2 else torch.cat(features),
        labels=torch.cat(labels),
        names=names,
        groups=names,
        skipped=skipped,
    )


def attentive(bench: ImageBench) -> Entry:
    """V-JEPA 2's attentive probe on the places of one view."""
    settings = replace(bench.config.attentive, seed=bench.config.seed)
    train, test = bench.tokens()
    found = attentive_probe(train, test, classes=bench.classes, config=settings, device=bench.device)
    protocol = {
        "in short": (
            f"{settings.depth} blocks, {found.heads} heads, {len(settings.settings)} settings, {settings.epochs} epochs; chosen on {found.chosen_on}"
        ),
        "features": "all places of the frozen encoder on the middle square of a picture",
        "optimiser": f"AdamW, cosine to 0, batch {settings.batch_size}",
        "chosen on": found.chosen_on,
    }
    chosen = {"lr": found.rate, "weight decay": found.decay}
    return {"metrics": found.scores, "protocol": protocol, "chosen": chosen, "grid": found.grid, "skipped": train.skipped + test.skipped}


def diagnostics(bench: ImageBench) -> Entry:
    """Ranks, alignment, uniformity and token similarity of the training pictures."""
    config = bench.config
    return diagnose(
        bench.encoder,
        build_images(config.data),
        config.diagnostics,
        augment=config.augment,
        data=describe_images(config.data),
        device=bench.device,
        batch=config.batch,
        workers=config.workers,
    )


def propagation(bench: ImageBench) -> Entry:
    """Objects of a first frame followed through videos, each frame a picture."""
    config, tracks = bench.config, bench.config.propagation
    data = f"{tracks.root}, {tracks.split}"
    return propagate(bench.encoder, labelled_tracks(tracks), tracks, augment=config.augment, data=data, device=bench.device)


PROTOCOLS: dict[str, Callable[[ImageBench], Entry]] = {
    **protocols.POOLED,
    "attentive": attentive,
    "diagnostics": diagnostics,
    "propagation": propagation,
    "segmentation": lambda bench: segment(
        bench.encoder, bench.config.segmentation, augment=bench.config.augment, device=bench.device, seed=bench.config.seed
    ),
}
WITHOUT_CLASSES = frozenset({"diagnostics", "propagation", "segmentation"})
"""Protocols that read no class of the run's pictures, so any folder will do."""


def evaluate_images(run: Path, kinds: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """Evaluate the encoder of a run; write ``result.json`` and return it.

    Args:
        run: run directory.
        kinds: some of :data:`PROTOCOLS`.
        overrides: ``key=value`` for :class:`FrozenImagesConfig`.

    Raises:
        ConfigError: unknown kinds or keys, data without labels, an encoder that does not fit.
    """
    check_kinds(kinds, PROTOCOLS)
    config = frozen_config(run, overrides)
    device = pick_device(config.device)
    train, test, classes = unlabelled_sides(config) if WITHOUT_CLASSES.issuperset(kinds) else labelled_sides(config)
    out = config.out if config.out != Path("") else run / "evaluate"
    encoders = {"encoder": load_frozen(run)}
    if config.random:
        seed_everything(config.seed)
        encoders["random weights"] = rebuild_encoder(read_metadata(run / "encoder.safetensors")["description"]).eval()
    benches = {
        name: ImageBench(encoder=network.to(device), train=train, test=test, classes=classes, config=config, device=device, cache=out / "features")
        for name, network in encoders.items()
    }
    return evaluate_benches(run, benches, kinds, PROTOCOLS, out, asdict(config))


def unlabelled_sides(config: FrozenImagesConfig) -> tuple[ImageSource, ImageSource, int]:
    """The training pictures twice and no classes, for protocols that read none."""
    source = ImageSource(build_images(config.data), [plain_view(config.augment)])
    return source, source, 0


def labelled_sides(config: FrozenImagesConfig) -> tuple[ImageSource, ImageSource, int]:
    """Labelled training and test pictures, one plain view each, and the number of classes.

    Raises:
        ConfigError: no labels, or no test pictures of their own.
    """
    train = build_images(config.data)
    if len(train.classes) < 2:
        raise ConfigError("these pictures have no labels of two classes: give class folders with data.root=FOLDER, or data.kind=digits")
    if not has_validation(config.data):
        raise ConfigError(f"{config.data.root} has no val or test folder to score on: set data.val_split, or lay out ROOT/train and ROOT/val")
    test = build_images(config.data, validation=True, classes=train.classes)
    sources = [ImageSource(images, [plain_view(config.augment)], indices=_labelled(images)) for images in (train, test)]
    return sources[0], sources[1], len(train.classes)


def _labelled(images: ImageSet) -> list[int]:
    rows = [index for index in range(len(images)) if images.label(index) is not None]
    if not rows:
        raise ConfigError("no picture of a split has a label")
    return rows


def frozen_config(run: Path, overrides: Sequence[str]) -> FrozenImagesConfig:
    """The defaults, what the run was trained with (pictures and pixels), and the overrides on top."""
    try:
        base = load_config(FrozenImagesConfig, overrides=stored_parts(run / "config.yaml", ("data", "augment")))
    except ConfigError as error:
        raise ConfigError(f"{run} was not trained on pictures: {error}") from error
    return load_config(base, overrides=overrides)  # type: ignore[arg-type]
