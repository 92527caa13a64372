"""The labelled part of a LiDAR data set: whole sequences, nested, chosen by a fixed hash."""

from __future__ import annotations

from collections.abc import Sequence

from suite3d.labels import SALT, LabelLeak, LabelSubset, choose_subset, names_hash, parse_fraction
from suite3d.pointcloud.data.dataset import FrameDataset

__all__ = ["SALT", "LabelLeak", "LabelSubset", "label_subset", "names_hash", "parse_fraction"]


def label_subset(
    dataset: FrameDataset, fraction: float | str, *, draw: int = 0, salt: str = SALT, indices: Sequence[int] | None = None
) -> LabelSubset:
    """Labelled part of ``dataset``: the first ``fraction`` of its sequences in a fixed pseudo-random order, see :func:`suite3d.labels.choose_subset`.

    Only frames that have labels count. Without sequences (each frame its own), this is a hashed choice of frames.

    Args:
        dataset: labelled frames with sequence names.
        fraction: share of the sequences in (0, 1], or text for :func:`suite3d.labels.parse_fraction`.
        draw: independent draws for repeated experiments.
        salt: change it and every choice changes.
        indices: choose only among these frames (for example the training part of a split).

    Raises:
        ValueError: fraction outside (0, 1], or no labelled frame.
    """
    allowed = [index for index in (range(len(dataset)) if indices is None else indices) if dataset.labelled(index)]
    sequence = {row: name for name, rows in dataset.by_sequence(allowed).items() for row in rows}
    everything = range(len(dataset))
    return choose_subset(
        [dataset.name(index) if index in sequence else "" for index in everything],
        [sequence.get(index, "") for index in everything],
        fraction,
        indices=allowed,
        draw=draw,
        salt=salt,
    )
