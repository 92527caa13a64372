"""``suite3d evaluate RUN knn,linear,...``: what frozen features are worth, each number with its protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from suite3d.config import ConfigError, load_config, stored_parts
from suite3d.engine.distributed import pick_device
from suite3d.engine.order import seed_everything
from suite3d.evaluate.attentive import AttentiveConfig
from suite3d.evaluate.features import FeatureSet, cached_features, weights_digest
from suite3d.evaluate.fewshot import FewShotConfig
from suite3d.evaluate.linear import LinearConfig
from suite3d.evaluate.protocols import KnnConfig, RetrievalConfig, check_kinds, evaluate_benches
from suite3d.image.recipes.propagation import TrackingConfig
from suite3d.image.views import ViewConfig
from suite3d.video.data.lists import VideoItem
from suite3d.video.recipes.data import VideoDataConfig, describe_data
from suite3d.video.recipes.frozen_encoder import fresh_like, load_frozen
from suite3d.video.recipes.labelled import LabelledVideos, item_group, labelled_part, labelled_videos, list_key
from suite3d.video.recipes.testing import Frames, describe_frames, loader_workers, make_source
from suite3d.video.tasks.extract import Extractor, OnlineTokens, Precision


@dataclass(kw_only=True)
class TokenConfig:
    """What the attentive probe looks at.

    Attributes:
        segments: clips of a video whose tokens it sees together.
        crops: views of a test video, averaged after the softmax.
        online: encode freshly cropped clips in every epoch (V-JEPA 2's way) instead of keeping the tokens of the middle ones.
        gigabytes: most memory that kept tokens may take.
    """

    segments: int = 1
    crops: Literal[1, 3] = 1
    online: bool = False
    gigabytes: float = 8.0


@dataclass(kw_only=True)
class FrozenConfig:
    """Evaluation of frozen features.

    Attributes:
        data: the videos; by default those of the run. ``repeats`` is not used.
        frames: ``dense`` or ``segments``, see :class:`suite3d.video.recipes.finetune.VideoClassifyRecipe`.
        augment: size, mean and deviation of the pixels; the rest counts for ``attentive`` with ``tokens.online`` only.
        clips, crops: of each video, averaged, for kNN, linear and few-shot.
        labels, label_draw: share of the training labels, see there.
        held_out: share of each class's videos to test on where the data have no test split.
        random: also evaluate the same network with random weights.
        knn, linear, attentive, tokens, fewshot, retrieval, propagation: the protocols.
        batch, workers, device, precision: of the encoder's pass over the videos.
        cache: folder of the feature files; empty = ``features`` in ``out``.
        out: where ``result.json`` goes; empty = ``RUN/evaluate``.
        seed: of probes and of the random weights.
    """

    data: VideoDataConfig = field(default_factory=VideoDataConfig)
    frames: Frames = "dense"
    augment: ViewConfig = field(default_factory=ViewConfig)
    clips: int = 1
    crops: Literal[1, 3] = 1
    labels: str = "100%"
    label_draw: int = 0
    held_out: float = 0.2
    random: bool = False
    knn: KnnConfig = field(default_factory=KnnConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)
    attentive: AttentiveConfig = field(default_factory=AttentiveConfig)
    tokens: TokenConfig = field(default_factory=TokenConfig)
    fewshot: FewShotConfig = field(default_factory=FewShotConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    propagation: TrackingConfig = field(default_factory=TrackingConfig)
    batch: int = 8
    workers: int = 0
    device: str = "auto"
    precision: Precision = "fp32"
    cache: Path = Path("")
    out: Path = Path("")
    seed: int = 0


@dataclass(kw_only=True)
class Bench:
    """An encoder on labelled videos: what the protocols in :mod:`suite3d.video.recipes.protocols` work with."""

    encoder: nn.Module
    weights: str
    videos: LabelledVideos
    train: list[VideoItem]
    config: FrozenConfig
    device: torch.device
    cache: Path

    @property
    def extractor(self) -> Extractor:
        config = self.config
        workers = loader_workers(config.workers)
        return Extractor(self.encoder, device=self.device, precision=config.precision, batch=config.batch, workers=workers)

    def pooled(self, *, clips: int, crops: int) -> tuple[FeatureSet, FeatureSet]:
        """Features ``(n, D)`` of the training and the test videos."""
        train, test = (self._features(items, "pooled", clips, crops) for items in (self.train, self.videos.test))
        return train, test

    def token_banks(self) -> tuple[FeatureSet | OnlineTokens, FeatureSet]:
        """Training and test tokens. Raises ConfigError where they would not fit into memory."""
        tokens, config = self.config.tokens, self.config
        test_crops = tokens.crops
        self._check_size(len(self.videos.test) * test_crops + (0 if tokens.online else len(self.train)))
        test = self._features(self.videos.test, "tokens", tokens.segments, test_crops)
        if not tokens.online:
            return self._features(self.train, "tokens", tokens.segments, 1), test
        source = make_source(self.train, config.data, config.augment, frames=config.frames, windows=tokens.segments)
        labels = torch.tensor([item.label for item in self.train])
        return OnlineTokens(self.extractor, source, labels, [item_group(item) for item in self.train]), test

    def _features(self, items: list[VideoItem], form: Literal["pooled", "tokens"], clips: int, crops: int) -> FeatureSet:
        config = self.config
        source = make_source(items, config.data, config.augment, frames=config.frames, test=True, windows=clips, repeats=crops)
        groups = [item_group(item) for item in items]
        key = {
            "weights": self.weights,
            "videos": list_key(items),
            "clip": [config.data.frames, config.data.stride, config.frames, clips, crops],
            "pixels": [config.augment.size, list(config.augment.mean), list(config.augment.std)],
            "form": form,
            "precision": config.precision,
        }
        extractor = self.extractor
        return cached_features(self.cache, key, lambda: (extractor.pooled if form == "pooled" else extractor.views)(source, groups))

    def _check_size(self, views: int) -> None:
        grid, width = getattr(self.encoder, "grid", None), self.encoder.embed_dim
        if grid is None:
            return
        assert isinstance(width, int)
        size = views * self.config.tokens.segments * math.prod(grid) * width * 2 / 1e9
        if size > self.config.tokens.gigabytes:
            raise ConfigError(
                f"the tokens would take {size:.1f} GB of memory, more than tokens.gigabytes={self.config.tokens.gigabytes:g}: "
                "set tokens.online=true to encode the training clips anew in every epoch, evaluate fewer videos, or raise the limit"
            )

    def describe(self, *, clips: int, crops: int) -> dict[str, Any]:
        """The part of a protocol that says what a feature is."""
        data, videos = self.config.data, self.videos
        sizes = f"{len(self.train)} training and {len(videos.test)} test videos, {len(videos.classes)} classes"
        return {
            "features": f"frozen encoder, mean over all tokens of {clips} clips x {crops} crops of a video",
            "frames": describe_frames(data, self.config.frames),
            "pixels": f"{self.config.augment.size} x {self.config.augment.size}",
            "data": f"{describe_data(data)}; {sizes}; {videos.how}",
            "labels": f"{self.config.labels} of the training labels (draw {self.config.label_draw})",
        }


def evaluate_frozen(run: Path, kinds: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """Evaluate the encoder of a run or file; write ``result.json`` and return it.

    Args:
        run: run directory or weights file.
        kinds: some of :data:`suite3d.video.recipes.protocols.PROTOCOLS`.
        overrides: ``key=value`` for :class:`FrozenConfig`.

    Raises:
        ConfigError: unknown kinds or keys, data without labels, an encoder that does not fit.
    """
    from suite3d.video.recipes.protocols import PROTOCOLS, WITHOUT_CLASSES

    check_kinds(kinds, PROTOCOLS)
    config = frozen_config(run, overrides)
    device = pick_device(config.device)
    encoder = load_frozen(run, (config.data.frames, config.augment.size, config.augment.size))
    if WITHOUT_CLASSES.issuperset(kinds):
        videos, items, labels = LabelledVideos(train=[], test=[], classes=[], how="no class is read"), list[VideoItem](), ""
    else:
        videos = labelled_videos(config.data, held_out=config.held_out)
        items, subset = labelled_part(videos, config.labels, draw=config.label_draw)
        labels = subset.hash
    out = config.out if config.out != Path("") else (run if run.is_dir() else Path("runs") / run.stem) / "evaluate"
    cache = config.cache if config.cache != Path("") else out / "features"
    encoders = {"encoder": encoder}
    if config.random:
        seed_everything(config.seed)
        encoders["random weights"] = fresh_like(encoder)
    benches = {
        name: Bench(encoder=network, weights=weights_digest(network), videos=videos, train=items, config=config, device=device, cache=cache)
        for name, network in encoders.items()
    }
    return evaluate_benches(run, benches, kinds, PROTOCOLS, out, asdict(config) | {"label hash": labels})


def frozen_config(run: Path, overrides: Sequence[str]) -> FrozenConfig:
    """The defaults, what the run was trained with (videos, frames, pixels), and the overrides on top."""
    known = stored_parts(run / "config.yaml", ("data", "augment", "frames"))
    try:
        base = load_config(FrozenConfig, overrides=known)
    except ConfigError as error:
        raise ConfigError(f"{run} was not trained on video: {error}") from error
    if known:
        base.augment = replace(base.augment, crop="random_resized", area=(0.3, 1.0), ratio=(0.75, 4 / 3), jitter=0.0, gray=0.0)
    return load_config(base, overrides=overrides)  # type: ignore[arg-type]
