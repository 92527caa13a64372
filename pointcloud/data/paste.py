"""Ground-truth paste: objects cut out of labelled frames and put into others (SECOND, Yan et al., Sensors 2018, section 3.3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.files import write_atomically
from suite3d.pointcloud.data.boxes import box_index, collide_bev
from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.splits import LabelLeak, names_hash
from suite3d.source import BadSample


@dataclass(kw_only=True)
class PasteDatabase:
    """Objects with their points, and exactly which frames they were cut from.

    Attributes:
        channels: feature columns.
        xyz: ``(P, 3)`` float32 points of all objects, where they were recorded.
        feats: ``(P, C)`` float32.
        offsets: ``(K + 1,)`` int64; object k owns rows ``offsets[k]:offsets[k + 1]``.
        boxes: ``(K, 7 | 9)`` float32.
        classes: K class names.
        frames: names of every frame the database was built from, with or without objects.
        indices: their indices in the data set it was built on.
        skipped: (name, reason) of frames that could not be read.
    """

    channels: tuple[str, ...]
    xyz: NDArray[np.float32]
    feats: NDArray[np.float32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    classes: list[str]
    frames: list[str]
    indices: list[int]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def hash(self) -> str:
        """Hash of the names of the frames built from; equals ``LabelSubset.hash`` of the same frames."""
        return names_hash(self.frames)

    def counts(self) -> dict[str, int]:
        """Objects of each class, most frequent first."""
        names, numbers = np.unique(self.classes, return_counts=True)
        return {str(names[k]): int(numbers[k]) for k in np.argsort(-numbers, kind="stable")}

    @classmethod
    def build(cls, dataset: FrameDataset, indices: Iterable[int], *, class_names: Sequence[str] | None = None, min_points: int = 5) -> PasteDatabase:
        """Cut every object with at least ``min_points`` points out of the frames ``indices`` (all must be labelled).

        Args:
            dataset: labelled frames.
            indices: the labelled part of the training split, for example ``LabelSubset.indices``.
            class_names: classes to keep; None keeps all.
            min_points: objects with fewer points are left out.

        Raises:
            ValueError: a frame of ``indices`` is not labelled, or none of them could be read.
        """
        rows = sorted(set(indices))
        unlabelled = [dataset.name(row) for row in rows if not dataset.labelled(row)]
        if unlabelled:
            raise ValueError(f"a paste database is cut from labelled frames; {len(unlabelled)} are not, the first is {unlabelled[0]}")
        points, feats, boxes, classes = [], [], [], list[str]()
        skipped = []
        for row in rows:
            try:
                frame = dataset.frame(row)
            except BadSample as bad:
                skipped.append((bad.path, bad.reason))
                continue
            for member, inside in _objects(frame, class_names, min_points):
                assert frame.boxes is not None
                points.append(frame.xyz[inside])
                feats.append(frame.feats[inside])
                boxes.append(frame.boxes[member])
                classes.append(frame.classes[member])
        if len(skipped) == len(rows):
            raise ValueError(f"none of the {len(rows)} frames of the paste database can be read: {skipped[:3]}")
        width = len(boxes[0]) if boxes else 7
        return cls(
            channels=dataset.channels,
            xyz=np.concatenate(points) if points else np.zeros((0, 3), np.float32),
            feats=np.concatenate(feats) if feats else np.zeros((0, len(dataset.channels)), np.float32),
            offsets=np.cumsum([0, *map(len, points)], dtype=np.int64),
            boxes=np.stack(boxes) if boxes else np.zeros((0, width), np.float32),
            classes=classes,
            frames=[dataset.name(row) for row in rows],
            indices=rows,
            skipped=skipped,
        )

    def check(self, indices: Iterable[int], *, dataset: FrameDataset | None = None) -> None:
        """Refuse to serve objects from frames outside the labelled part of the training set.

        Args:
            indices: frames whose labels training may see.
            dataset: when given, frames are compared by name (safe for a loaded database); else by index.

        Raises:
            LabelLeak: the database was built from a frame that is not among ``indices``; names the first.
        """
        allowed = set(indices)
        if dataset is None:
            leaked = [name for index, name in zip(self.indices, self.frames) if index not in allowed]
        else:
            names = {dataset.name(index) for index in allowed}
            leaked = [name for name in self.frames if name not in names]
        if leaked:
            raise LabelLeak(
                f"the paste database holds labels from {len(leaked)} of {len(self.frames)} frames outside the {len(allowed)} labelled "
                f"training frames (first: {leaked[0]}). Build it from exactly those: PasteDatabase.build(dataset, subset.indices)"
            )

    def save(self, path: Path) -> None:
        """Write one ``.npz`` without pickles; on any failure an older file stays whole."""
        about = {"channels": self.channels, "classes": self.classes, "frames": self.frames, "indices": self.indices, "skipped": self.skipped}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, xyz=self.xyz, feats=self.feats, offsets=self.offsets, boxes=self.boxes, about=np.array(json.dumps(about)))

        write_atomically(path, write)

    @classmethod
    def load(cls, path: Path) -> PasteDatabase:
        """Read what :meth:`save` wrote. Raises ValueError for another file."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                about = json.loads(str(stored["about"]))
                arrays = {name: stored[name] for name in ("xyz", "feats", "offsets", "boxes")}
            return cls(
                **arrays,
                channels=tuple(about["channels"]),
                classes=about["classes"],
                frames=about["frames"],
                indices=about["indices"],
                skipped=[(name, reason) for name, reason in about["skipped"]],
            )
        except (KeyError, ValueError, EOFError) as bad:
            raise ValueError(f"{path}: not a paste database: {bad}") from bad


@dataclass(frozen=True, kw_only=True)
class PasteObjects:
    """Transform that pastes objects of a database where they were recorded. Goes before any global transform.

    For each class, objects are drawn without replacement; one is placed when its box overlaps no box already there (of any class) seen
    from above. Points of the scene inside placed boxes are removed first, so a placed object is never mixed with what stood there.

    Attributes:
        database: the objects.
        counts: class name -> how many to draw.
        limit_whole_scene: draw only as many as are missing to ``counts`` objects of the class in the scene; False always draws ``counts``.
        margin: scene points are also removed this far outside the pasted boxes, metres.
    """

    database: PasteDatabase
    counts: Mapping[str, int]
    limit_whole_scene: bool = True
    margin: float = 0.0

    def __post_init__(self) -> None:
        known = set(self.database.classes)
        lacking = [name for name, count in self.counts.items() if count > 0 and name not in known]
        if lacking and known:
            object.__setattr__(self, "counts", {name: count for name, count in self.counts.items() if name in known})
        members: dict[str, NDArray[np.int64]] = {}
        classes = np.array(self.database.classes, dtype=object)
        for name in self.counts:
            members[name] = np.flatnonzero(classes == name)
        object.__setattr__(self, "_members", members)

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        if frame.boxes is None or not len(self.database):
            return frame
        self._check(frame)
        chosen = self._choose(frame.boxes, frame.classes, rng)
        if not len(chosen):
            return frame
        boxes = self.database.boxes[chosen]
        grown = boxes[:, :7].copy()
        grown[:, 3:6] += 2 * self.margin
        frame = frame.keep_points(box_index(frame.xyz, grown) < 0)
        return self._insert(frame, chosen)

    def _check(self, frame: Frame) -> None:
        if frame.channels != self.database.channels:
            raise ValueError(
                f"paste database has channels {list(self.database.channels)}, the frames {list(frame.channels)}: build it from the same data"
            )
        if not np.allclose(frame.meta.get("augmentation", np.eye(4)), np.eye(4)):
            raise ValueError("objects are pasted where they were recorded: put PasteObjects before flips, rotations, scales and shifts")
        assert frame.boxes is not None
        if frame.boxes.shape[1] != self.database.boxes.shape[1]:
            raise ValueError(f"paste database has boxes of {self.database.boxes.shape[1]} numbers, the frames of {frame.boxes.shape[1]}")

    def _choose(self, boxes: NDArray[np.float32], classes: Sequence[str], rng: np.random.Generator) -> NDArray[np.int64]:
        """Database rows that fit, each against the scene and those placed before it."""
        members: dict[str, NDArray[np.int64]] = self._members  # type: ignore[attr-defined]
        placed: list[int] = []
        for name, count in self.counts.items():
            wanted = max(0, count - list(classes).count(name)) if self.limit_whole_scene else count
            drawn = rng.choice(members[name], min(wanted, len(members[name])), replace=False)
            candidates = self.database.boxes[drawn]
            free = ~collide_bev(candidates, np.concatenate([boxes, self.database.boxes[placed]])).any(axis=1)
            among = collide_bev(candidates, candidates)
            kept: list[int] = []
            for k in np.flatnonzero(free):
                if not among[k, kept].any():
                    kept.append(int(k))
            placed += [int(row) for row in drawn[kept]]
        return np.array(placed, dtype=np.int64)

    def _insert(self, frame: Frame, chosen: NDArray[np.int64]) -> Frame:
        base = self.database
        spans = [slice(base.offsets[k], base.offsets[k + 1]) for k in chosen]
        sizes = [span.stop - span.start for span in spans]
        count = sum(sizes)
        extend = lambda array, fill: None if array is None else np.concatenate([array, np.full((count, *array.shape[1:]), fill, array.dtype)])  # noqa: E731
        instances = frame.instances
        if instances is not None:
            first = int(instances.max(initial=0)) + 1
            instances = np.concatenate([instances, np.repeat(np.arange(first, first + len(chosen)), sizes)])
        assert frame.boxes is not None
        return replace(
            frame,
            xyz=np.concatenate([frame.xyz, *(base.xyz[span] for span in spans)]),
            feats=np.concatenate([frame.feats, *(base.feats[span] for span in spans)]),
            boxes=np.concatenate([frame.boxes, base.boxes[chosen]]),
            classes=[*frame.classes, *(base.classes[k] for k in chosen)],
            track_ids=None if frame.track_ids is None else np.concatenate([frame.track_ids, np.full(len(chosen), -1, np.int64)]),
            point_labels=extend(frame.point_labels, 0),
            instances=instances,
            flow=extend(frame.flow, 0),
            rows=extend(frame.rows, -1),
        )


def _objects(frame: Frame, class_names: Sequence[str] | None, min_points: int) -> list[tuple[int, NDArray[np.int64]]]:
    """(box row, rows of its points) of each object worth keeping."""
    if frame.boxes is None or not len(frame.boxes):
        return []
    wanted = [k for k, name in enumerate(frame.classes) if class_names is None or name in class_names]
    found = []
    for k in wanted:
        inside = np.flatnonzero(box_index(frame.xyz, frame.boxes[k : k + 1]) == 0)
        if len(inside) >= min_points:
            found.append((k, inside))
    return found
