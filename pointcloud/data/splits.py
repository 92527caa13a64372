"""Label fractions that cannot leak: whole sequences, nested, chosen by a fixed hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from suite3d.pointcloud.data.dataset import FrameDataset

SALT = "suite3d labels v1"


class LabelLeak(ValueError):
    """Labels from outside the labelled part of the training set were about to be used."""


@dataclass(frozen=True, kw_only=True)
class LabelSubset:
    """The labelled part of a training set, and where it came from.

    Attributes:
        indices: frame indices, ascending.
        fraction: what was asked for, in (0, 1].
        draw: number of the draw.
        salt: text mixed into the hash.
        sequences: chosen sequences, in hash order (so a smaller fraction is a prefix).
        total_sequences: how many there were to choose from.
        hash: 16 hex digits of the SHA-256 of the chosen frames' names: the same labels have the same hash.
    """

    indices: tuple[int, ...]
    fraction: float
    draw: int
    salt: str
    sequences: tuple[str, ...]
    total_sequences: int
    hash: str

    def __len__(self) -> int:
        return len(self.indices)

    def describe(self) -> str:
        """One line for logs and reports."""
        part = f"{len(self.sequences)} of {self.total_sequences} sequences, {len(self.indices)} frames"
        return f"labels {self.fraction:.4g} (draw {self.draw}): {part}, hash {self.hash}"


def label_subset(
    dataset: FrameDataset, fraction: float | str, *, draw: int = 0, salt: str = SALT, indices: Sequence[int] | None = None
) -> LabelSubset:
    """Labelled part of ``dataset``: the first ``fraction`` of its sequences in a fixed pseudo-random order.

    Sequences are ordered by SHA-256 of (salt, draw, sequence name), so the choice depends on nothing but the names: the same on every
    machine, and within one draw nested: 5 % is part of 10 % is part of 100 %. The number of sequences is rounded to the nearest, at least one.
    Only frames that have labels count. Without sequences (each frame its own), this is a hashed choice of frames.

    Args:
        dataset: labelled frames with sequence names.
        fraction: share of the sequences in (0, 1], or text for :func:`parse_fraction`.
        draw: independent draws for repeated experiments.
        salt: change it and every choice changes.
        indices: choose only among these frames (for example the training part of a split).

    Raises:
        ValueError: fraction outside (0, 1], or no labelled frame.
    """
    share = parse_fraction(fraction) if isinstance(fraction, str) else float(fraction)
    if not 0 < share <= 1:
        raise ValueError(f"fraction: expected a number in (0, 1], got {fraction!r}")
    allowed = [index for index in (range(len(dataset)) if indices is None else indices) if dataset.labelled(index)]
    if not allowed:
        raise ValueError("no frame of this data set is labelled, so there is nothing to take a fraction of")
    groups = dataset.by_sequence(allowed)
    ordered = sorted(groups, key=lambda name: hashlib.sha256(f"{salt}|{draw}|{name}".encode()).digest())
    chosen = ordered[: max(1, int(share * len(ordered) + 0.5))]
    picked = sorted(index for name in chosen for index in groups[name])
    return LabelSubset(
        indices=tuple(picked),
        fraction=share,
        draw=draw,
        salt=salt,
        sequences=tuple(chosen),
        total_sequences=len(ordered),
        hash=names_hash([dataset.name(index) for index in picked]),
    )


def names_hash(names: Sequence[str]) -> str:
    """16 hex digits of the SHA-256 of the sorted names, one a line."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


def parse_fraction(text: str) -> float:
    """``"5%"`` -> 0.05, ``"0.05"`` -> 0.05. Raises ValueError for anything that is not in (0, 100 %]."""
    cleaned = text.strip()
    try:
        value = float(cleaned.removesuffix("%")) / (100 if cleaned.endswith("%") else 1)
    except ValueError as bad:
        raise ValueError(f"label fraction: expected something like '5%' or 0.05, got {text!r}") from bad
    if not 0 < value <= 1:
        raise ValueError(f"label fraction: expected more than 0 and at most 100%, got {text!r}")
    return value
