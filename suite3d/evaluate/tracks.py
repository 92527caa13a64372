"""Label propagation scored on videos with masks: the objects of the first frame are followed, and J and F say how well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suite3d.evaluate.propagation import PropagationConfig, decide, propagate_labels
from suite3d.evaluate.protocols import Entry
from suite3d.evaluate.region_boundary import boundary_score, region_overlap
from suite3d.evaluate.token_labels import IGNORED, token_shares
from suite3d.source import BadSample

Loaded = tuple[NDArray[np.uint8], NDArray[np.integer[Any]]]


@dataclass(frozen=True, kw_only=True)
class MaskedVideo:
    """A video with masks.

    Attributes:
        name: short name.
        load: reads ``(T, H, W, 3)`` uint8 frames and ``(T, H, W)`` integer masks: 0 = background, numbers of objects, :data:`IGNORED` = does
            not count. A frame of which all is ignored is not scored. Raises :class:`suite3d.source.BadSample`.
    """

    name: str
    load: Callable[[], Loaded]


@dataclass(kw_only=True)
class ObjectScores:
    """J and F of one object over the scored frames, ``(n,)`` each, in [0, 1]."""

    region: Tensor
    boundary: Tensor


def score_tracks(videos: Sequence[MaskedVideo], encode: Callable[[NDArray[np.uint8]], Tensor], config: PropagationConfig) -> Entry:
    """Follow the objects of every video and score them.

    Args:
        videos: the videos. One that cannot be read, or has no object in its first frame, is left out and named.
        encode: frames ``(T, H, W, 3)`` uint8 -> features ``(T, h, w, D)``.
        config: of the propagation.

    Returns:
        Means over objects (of all videos alike) of the means over frames, percent; beside them J&F of two others: ``kept``, the first mask left
        where it was, and ``limit``, the true masks at the resolution of the tokens.

    Raises:
        ValueError: not one video could be scored.
    """
    found: list[ObjectScores] = []
    still: list[ObjectScores] = []
    ideal: list[ObjectScores] = []
    skipped: list[str] = []
    grids: set[tuple[int, int]] = set()
    used = 0
    for video in videos:
        try:
            frames, masks = video.load()
            masks, objects = first_objects(video.name, masks)
        except BadSample as bad:
            skipped.append(str(bad))
            continue
        used += 1
        features = encode(frames)
        grid = (features.shape[1], features.shape[2])
        grids.add(grid)
        truth = torch.from_numpy(masks).to(features.device)
        found += follow(features, truth, objects, config)
        still += score_objects(truth[:1].expand_as(truth), truth, objects)
        ideal += score_objects(torch.stack([decide(token_shares(mask, grid, objects + 1)[0], mask.shape[:2]) for mask in truth]), truth, objects)
    if not found:
        raise ValueError(f"propagation: no video with a mask could be scored; the first problems: {skipped[:3]}")
    metrics = object_means(found)
    others = {"J&F kept": object_means(still)["J&F"], "J&F limit": object_means(ideal)["J&F"]}
    said = ", ".join(f"{height} x {width}" for height, width in sorted(grids))
    protocol = {
        "in short": f"{config.neighbours} of {config.context} frames, radius {config.radius}, T={config.temperature:g}; {len(found)} objects",
        "features": "frozen encoder, each frame by itself; nothing is trained",
        "tokens": f"{said} a frame",
        "labels": "the first frame's mask, shares of each token's pixels; bilinear to the pixels of the mask, each map stretched to [0, 1]",
        "J, F": f"means over {len(found)} objects of {used} videos, first and last frames not scored; recall: share of frames above 0.5",
        "kept, limit": "the first mask left where it was; the true masks at the resolution of the tokens",
    }
    return {"metrics": metrics | others, "protocol": protocol, "skipped": skipped}


def follow(features: Tensor, truth: Tensor, objects: int, config: PropagationConfig) -> list[ObjectScores]:
    """Scores of the objects 1 to ``objects`` of one video, features ``(T, h, w, D)``, masks ``(T, H, W)`` int64."""
    shares, _ = token_shares(truth[0], (features.shape[1], features.shape[2]), objects + 1)
    labels = propagate_labels(features, shares, config)
    size = (truth.shape[1], truth.shape[2])
    return score_objects(torch.stack([decide(frame, size) for frame in labels]), truth, objects)


def score_objects(found: Tensor, truth: Tensor, objects: int) -> list[ObjectScores]:
    """J and F of each object over all frames but the first and the last and those without truth, both ``(T, H, W)`` int64."""
    void = truth == IGNORED
    rows = [frame for frame in range(1, len(truth) - 1) if not bool(void[frame].all())]
    found, truth, void = found[rows], truth[rows], void[rows]
    scores = []
    for number in range(1, objects + 1):
        ours, theirs = found == number, truth == number
        scores.append(ObjectScores(region=region_overlap(ours, theirs, void), boundary=boundary_score(ours, theirs, void)))
    return scores


def object_means(scores: Sequence[ObjectScores]) -> dict[str, float]:
    """J&F, J, F and their recalls over objects, percent."""
    mean = lambda values: 100 * float(torch.stack(values).mean())  # noqa: E731
    region, boundary = (mean([getattr(score, name).mean() for score in scores]) for name in ("region", "boundary"))
    recalls = [mean([(getattr(score, name) > 0.5).double().mean() for score in scores]) for name in ("region", "boundary")]
    return {"J&F": (region + boundary) / 2, "J": region, "F": boundary, "J recall": recalls[0], "F recall": recalls[1]}


def first_objects(name: str, masks: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], int]:
    """Masks with the objects of the first frame numbered from 1; others are background. Raises BadSample where there is nothing to follow."""
    numbers = [number for number in np.unique(masks[0]) if number not in (0, IGNORED)]
    if not numbers:
        raise BadSample(name, "has no object in its first frame")
    if not any((frame != IGNORED).any() for frame in masks[1:-1]):
        raise BadSample(name, f"has no mask between its first and last frame, of {len(masks)}")
    renumbered = np.where(masks == IGNORED, IGNORED, 0).astype(np.int64)
    for place, number in enumerate(numbers, start=1):
        renumbered[masks == number] = place
    return renumbered, len(numbers)
