"""Label fractions that cannot leak: whole groups, nested, chosen by a fixed hash; and the held-out part that choices are made on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

SALT = "suite3d labels v1"
HELD_OUT_SALT = "suite3d held out v1"


class LabelLeak(ValueError):
    """Labels from outside the labelled part of the training set were about to be used."""


@dataclass(frozen=True, kw_only=True)
class LabelSubset:
    """The labelled part of a training set, and where it came from.

    Attributes:
        indices: sample indices, ascending.
        fraction: what was asked for, in (0, 1].
        draw: number of the draw.
        salt: text mixed into the hash.
        sequences: chosen groups, in hash order (so a smaller fraction is a prefix, within each class where classes are drawn apart).
        total_sequences: how many there were to choose from.
        hash: 16 hex digits of the SHA-256 of the chosen samples' names: the same labels have the same hash.
        units: what a group and a sample are called.
    """

    indices: tuple[int, ...]
    fraction: float
    draw: int
    salt: str
    sequences: tuple[str, ...]
    total_sequences: int
    hash: str
    units: tuple[str, str] = ("sequences", "frames")

    def __len__(self) -> int:
        return len(self.indices)

    def describe(self) -> str:
        """One line for logs and reports."""
        part = f"{len(self.sequences)} of {self.total_sequences} {self.units[0]}, {len(self.indices)} {self.units[1]}"
        return f"labels {self.fraction:.4g} (draw {self.draw}): {part}, hash {self.hash}"


def choose_subset(
    names: Sequence[str],
    groups: Sequence[str],
    fraction: float | str,
    *,
    indices: Sequence[int],
    strata: Sequence[int] | None = None,
    draw: int = 0,
    salt: str = SALT,
    units: tuple[str, str] = ("sequences", "frames"),
) -> LabelSubset:
    """The first ``fraction`` of the groups in a fixed pseudo-random order.

    Groups are ordered by SHA-256 of (salt, draw, group name), so the choice depends on nothing but the names: the same on every machine, and
    within one draw nested: 5 % is part of 10 % is part of 100 %. The number of groups is rounded to the nearest, at least one.

    Args:
        names: of all samples. groups: group of each sample; whole groups are taken.
        fraction: share of the groups in (0, 1], or text for :func:`parse_fraction`.
        indices: the labelled samples to choose among.
        strata: class of each sample; with it the fraction is taken of each class by itself (a group belongs to the class of its first sample).
        draw: independent draws for repeated experiments.
        salt: change it and every choice changes.
        units: what a group and a sample are called.

    Raises:
        ValueError: fraction outside (0, 1], or nothing to choose from.
    """
    share = parse_fraction(fraction) if isinstance(fraction, str) else float(fraction)
    if not 0 < share <= 1:
        raise ValueError(f"fraction: expected a number in (0, 1], got {fraction!r}")
    if not len(indices):
        raise ValueError(f"no {units[1].removesuffix('s')} of this data set is labelled, so there is nothing to take a fraction of")
    members = _members(groups, indices)
    chosen: list[str] = []
    for stratum in _strata(members, strata):
        ordered = _hashed(stratum, f"{salt}|{draw}")
        chosen += ordered[: max(1, int(share * len(ordered) + 0.5))]
    picked = sorted(index for group in chosen for index in members[group])
    return LabelSubset(
        indices=tuple(picked),
        fraction=share,
        draw=draw,
        salt=salt,
        sequences=tuple(chosen),
        total_sequences=len(members),
        hash=names_hash([names[index] for index in picked]),
        units=units,
    )


def held_out_split(groups: Sequence[str], labels: Sequence[int], share: float, *, salt: str = HELD_OUT_SALT) -> tuple[list[int], list[int]]:
    """Samples to fit on and samples to choose settings on, both of the training set.

    Whole groups, by a fixed hash, the ``share`` taken of each class: at least one group of a class that has two, none of a class with one.

    Returns:
        (indices to fit on, held-out indices), ascending.

    Raises:
        ValueError: a share outside (0, 1), or no class with two groups.
    """
    if not 0 < share < 1:
        raise ValueError(f"the held-out share must lie between 0 and 1, got {share}")
    members = _members(groups, range(len(groups)))
    held: list[int] = []
    for stratum in _strata(members, labels):
        if len(stratum) > 1:
            count = min(max(1, int(share * len(stratum) + 0.5)), len(stratum) - 1)
            held += [index for group in _hashed(stratum, salt)[:count] for index in members[group]]
    if not held:
        raise ValueError(
            "no class has two groups of samples (videos), so nothing can be held out: give a single setting (one learning rate), or label more"
        )
    kept = set(held)
    return [index for index in range(len(groups)) if index not in kept], sorted(held)


def _members(groups: Sequence[str], indices: Sequence[int]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index in indices:
        members.setdefault(groups[index], []).append(index)
    return members


def _strata(members: dict[str, list[int]], labels: Sequence[int] | None) -> list[list[str]]:
    """Group names by class, in the order of the class numbers; one stratum without classes."""
    if labels is None:
        return [list(members)]
    by_class: dict[int, list[str]] = {}
    for group, rows in members.items():
        by_class.setdefault(int(labels[rows[0]]), []).append(group)
    return [by_class[label] for label in sorted(by_class)]


def _hashed(names: Sequence[str], salt: str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}|{name}".encode()).digest())


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
