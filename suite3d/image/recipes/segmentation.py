"""``suite3d evaluate RUN segmentation``: pixels labelled by looking patches up in a few labelled pictures, or in all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite3d.config import ConfigError
from suite3d.engine.order import stream_seed
from suite3d.evaluate.frame_encoder import FrameEncoder
from suite3d.evaluate.in_context import (
    InContextConfig,
    LabelledTokens,
    build_memory,
    confusion,
    labelled_tokens,
    retrieve_labels,
    segmentation_scores,
)
from suite3d.evaluate.probes import spread
from suite3d.evaluate.protocols import Entry
from suite3d.evaluate.token_labels import IGNORED, label_scores, token_shares
from suite3d.image.data.scenes import SceneConfig, Scenes
from suite3d.image.data.segmented import Segmented, segmented_folder
from suite3d.image.views import ViewConfig
from suite3d.source import BadSample


@dataclass(kw_only=True)
class SegmentationConfig(InContextConfig):
    """Segmentation by retrieval and its pictures.

    Attributes:
        root: folder of pictures and label files, see :func:`suite3d.image.data.segmented.segmented_folder`; empty = procedural scenes.
        ignore: label values that do not count: 255 in most sets; ADE20K also 0.
        train, test: pictures at most, evenly spread over the set.
        size: short side a picture is brought to, pixels; 0 = that of the run.
        scenes: the procedural scenes.
    """

    root: Path = Path("")
    ignore: tuple[int, ...] = (IGNORED,)
    train: int = 500
    test: int = 200
    size: int = 0
    scenes: SceneConfig = field(default_factory=SceneConfig)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures of one side and their label values, numbered; ``rows``: those that could be read."""

    source: Segmented
    rows: list[int]
    numbers: dict[int, int]

    def labels(self, row: int) -> Tensor:
        """``(H, W)`` int64 class numbers, :data:`IGNORED` where a pixel does not count."""
        values = self.source.labels(row)
        numbered = np.full(values.shape, IGNORED, np.int64)
        for value, number in self.numbers.items():
            numbered[values == value] = number
        return torch.from_numpy(numbered)


def segment(encoder: nn.Module, config: SegmentationConfig, *, augment: ViewConfig, device: torch.device, seed: int) -> Entry:
    """Scores of one encoder.

    Args:
        encoder: of pictures, in evaluation mode.
        augment: size, mean and deviation of the pixels.
        seed: of the choice of reference pictures and of the memory.

    Raises:
        ConfigError: a folder of another layout.
        ValueError: nothing to score, or an encoder that gives no map of tokens.
    """
    train, test, data, skipped = _sides(config)
    size = config.size or augment.size
    encode = FrameEncoder(encoder=encoder, size=size, mean=augment.mean, std=augment.std, device=device)
    classes = len(train.numbers)
    pictures = [_tokens(encode(train.source.picture(row)[None])[0], train.labels(row).to(device), classes) for row in train.rows]
    memories = _memories(pictures, config, seed)
    counts = {name: [torch.zeros(classes, classes, dtype=torch.int64) for _ in kept] for name, kept in memories.items()}
    ideal, common = torch.zeros(classes, classes, dtype=torch.int64), torch.zeros(classes, dtype=torch.float64)
    for picture in pictures:
        common += picture.shares.sum(dim=0).double().cpu()
    for row in test.rows:
        truth, features = test.labels(row).to(device), encode(test.source.picture(row)[None])[0]
        ideal += _count(token_shares(truth, (features.shape[0], features.shape[1]), classes)[0], truth, classes)
        for name, kept in memories.items():
            for place, memory in enumerate(kept):
                shares = retrieve_labels(features, memory, neighbours=config.neighbours, temperature=config.temperature)
                counts[name][place] += _count(shares, truth, classes)
    metrics = _metrics(counts, ideal, int(common.argmax()))
    memory = next(iter(memories.values()))[0]
    protocol = {
        "in short": f"{config.neighbours} neighbours, T={config.temperature:g}; {len(test.rows)} test pictures, {classes} classes",
        "features": "frozen encoder, all places of a picture; nothing is trained",
        "pixels": f"short side {size} pixels, aspect kept; class shares bilinear to the pixels of the labels, then the largest",
        "memory": f"at most {config.memory} tokens, rare classes first; {len(memory)} with {list(memories)[0]}; exact neighbours, no augmentation",
        "references": f"{len(train.rows)} training pictures; fewer are drawn {config.draws} times and the mIoU averaged",
        "mIoU": f"over the classes of the test pictures, all pixels together; values {sorted(config.ignore)} do not count",
        "limit, majority": "the true labels at the resolution of the tokens; every pixel the commonest training class",
        "data": data,
    }
    draws = {name: [segmentation_scores(one)["mIoU"] for one in kept] for name, kept in counts.items()}
    return {"metrics": metrics, "protocol": protocol, "draws": draws, "skipped": skipped}


def _tokens(features: Tensor, labels: Tensor, classes: int) -> LabelledTokens:
    return labelled_tokens(features, *token_shares(labels, (features.shape[0], features.shape[1]), classes))


def _count(shares: Tensor, truth: Tensor, classes: int) -> Tensor:
    found = label_scores(shares, (truth.shape[0], truth.shape[1])).argmax(dim=0)
    return confusion(found, truth, classes, ignored=IGNORED).cpu()


def _memories(pictures: list[LabelledTokens], config: SegmentationConfig, seed: int) -> dict[str, list[LabelledTokens]]:
    """By number of references, the memories of all draws; numbers of more pictures than there are count as all."""
    memories: dict[str, list[LabelledTokens]] = {}
    for count in config.references:
        all_of_them = count == 0 or count >= len(pictures)
        name = "all references" if all_of_them else f"{count} reference{'s' if count > 1 else ''}"
        if name in memories:
            continue
        memories[name] = []
        for draw in range(1 if all_of_them else config.draws):
            generator = torch.Generator().manual_seed(stream_seed("segmentation", seed, count, draw))
            rows = range(len(pictures)) if all_of_them else torch.randperm(len(pictures), generator=generator)[:count].tolist()
            memories[name].append(build_memory([pictures[row] for row in rows], config.memory, generator=generator))
    return memories


def _metrics(counts: dict[str, list[Tensor]], ideal: Tensor, common: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, kept in counts.items():
        scores = [segmentation_scores(one) for one in kept]
        metrics |= {f"{key}, {name}": sum(score[key] for score in scores) / len(scores) for key in scores[0]}
    majority = torch.zeros_like(ideal)
    majority[:, common] = ideal.sum(dim=1)
    return metrics | {"mIoU, limit": segmentation_scores(ideal)["mIoU"], "mIoU, majority": segmentation_scores(majority)["mIoU"]}


def _sides(config: SegmentationConfig) -> tuple[Pictures, Pictures, str, list[str]]:
    """Training and test pictures with common class numbers, where they are from, and what could not be read."""
    if config.root == Path(""):
        sources: tuple[Segmented, Segmented] = (Scenes(config.scenes, "train"), Scenes(config.scenes, "val"))
        data = f"procedural scenes (synthetic, seed {config.scenes.seed}), a class a material"
    else:
        try:
            train, test = segmented_folder(config.root)
        except (ValueError, OSError) as error:
            raise ConfigError(f"segmentation: {error}") from error
        sources, data = (train, test), f"{config.root}; {train.how}"
    skipped: list[str] = []
    values: set[int] = set()
    sides = []
    for source, most in zip(sources, (config.train, config.test), strict=True):
        rows = []
        for row in spread(list(range(len(source))), most):
            try:
                labels = source.labels(row)
                _same_size(source.name(row), source.picture(row), labels)
            except BadSample as bad:
                skipped.append(str(bad))
                continue
            values |= set(np.unique(labels).tolist())
            rows.append(row)
        if not rows:
            raise ValueError(f"segmentation: no picture with labels could be read; the first problems: {skipped[:3]}")
        sides.append((source, rows))
    known = sorted(values - set(config.ignore))
    if len(known) < 2 or len(known) > IGNORED:
        raise ValueError(f"segmentation needs label files of 2 to {IGNORED} values that count, got {known[:10]} with ignore={list(config.ignore)}")
    numbers = {value: number for number, value in enumerate(known)}
    found = [Pictures(source=source, rows=rows, numbers=numbers) for source, rows in sides]
    return found[0], found[1], f"{data}; {len(sides[0][1])} training and {len(sides[1][1])} test pictures", skipped


def _same_size(name: str, picture: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    if picture.shape[:2] != labels.shape:
        raise BadSample(name, f"picture of {picture.shape[1]} x {picture.shape[0]} pixels, labels of {labels.shape[1]} x {labels.shape[0]}")
