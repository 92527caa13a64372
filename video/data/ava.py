"""Action annotations in AVA's files: csv of boxes with actions, csv of detected persons, label map, excluded frames.

A row of annotations is ``video, second, x1, y1, x2, y2, action, person``, coordinates as shares of the picture, actions counted from 1; a row with an
empty action is a person without one. Rows of results have the score in place of the person. (https://research.google.com/ava/download.html)
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.files import write_atomically
from suite3d.evaluate.frame_map import FrameBoxes

Key = tuple[str, float]
"""Video and second of a key frame."""


@dataclass(kw_only=True)
class KeyFrame:
    """Persons of one key frame.

    Attributes:
        video, second: where it is.
        boxes: ``(n, 4)`` float64 x1, y1, x2, y2 as shares of the picture, one for each person.
        actions: n sets of action ids as in the file.
        scores: ``(n,)`` of a person detector; 1 for annotated persons.
    """

    video: str
    second: float
    boxes: NDArray[np.float64]
    actions: list[set[int]] = field(default_factory=list)
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def key(self) -> Key:
        return self.video, self.second

    def rows(self) -> FrameBoxes:
        """One row for each person and action."""
        pairs = [(row, action) for row, actions in enumerate(self.actions) for action in sorted(actions)]
        rows = np.array([row for row, _ in pairs], dtype=np.int64)
        return FrameBoxes(boxes=self.boxes[rows], classes=np.array([a for _, a in pairs], dtype=np.int64), scores=np.ones(len(rows)))


def read_ava(path: Path, *, excluded: Iterable[Key] = ()) -> list[KeyFrame]:
    """Annotations or detected persons, by key frame in the order of the file; rows with one box (and person number) are one person.

    Args:
        path: csv, with or without a header. The eighth column is a whole number for a person, a fraction for a detector's score.
        excluded: key frames to leave out.

    Raises:
        ValueError: a row that does not fit, with its line number.
        FileNotFoundError: no such file.
    """
    persons: dict[Key, dict[tuple[str, ...], tuple[set[int], float]]] = {}
    left_out = set(excluded)
    with open(path, newline="", encoding="utf-8") as handle:
        for line, row in enumerate(csv.reader(handle), start=1):
            if not row or (line == 1 and not _number(row[1] if len(row) > 1 else "")):
                continue
            key, corners, action, last = _parse(path, line, row)
            if key in left_out:
                continue
            identity = (*corners, last if last.lstrip("-").isdigit() else "")
            actions, score = persons.setdefault(key, {}).setdefault(identity, (set(), 1.0))
            if action:
                actions.add(int(action))
            if last and not last.lstrip("-").isdigit():
                persons[key][identity] = (actions, float(last))
    return [
        KeyFrame(
            video=video,
            second=second,
            boxes=np.array([identity[:4] for identity in people], dtype=np.float64).reshape(-1, 4),
            actions=[actions for actions, _ in people.values()],
            scores=np.array([score for _, score in people.values()]),
        )
        for (video, second), people in persons.items()
    ]


def _parse(path: Path, line: int, row: list[str]) -> tuple[Key, list[str], str, str]:
    if len(row) < 6 or not all(_number(value) for value in row[1:6]):
        raise ValueError(f"{path}, line {line}: expected video,second,x1,y1,x2,y2[,action[,person or score]], got {','.join(row)[:80]}")
    corners = [value.strip() for value in row[2:6]]
    x1, y1, x2, y2 = map(float, corners)
    if not (x1 <= x2 and y1 <= y2 and -0.01 <= min(x1, y1) and max(x2, y2) <= 1.01):
        raise ValueError(f"{path}, line {line}: expected a box in shares of the picture with x1 <= x2 and y1 <= y2, got {corners}")
    action, last = (row[place].strip() if len(row) > place else "" for place in (6, 7))
    if action and not action.isdigit() or last and not _number(last):
        raise ValueError(f"{path}, line {line}: expected an action number and a person number or score, got '{action}', '{last}'")
    return (row[0].strip(), float(row[1])), corners, action, last


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_excluded(path: Path) -> list[Key]:
    """Key frames of ``video, second`` rows."""
    with open(path, newline="", encoding="utf-8") as handle:
        return [(row[0].strip(), float(row[1])) for row in csv.reader(handle) if len(row) >= 2 and _number(row[1])]


def read_label_map(path: Path) -> dict[int, str]:
    """Action id -> name, from AVA's ``.pbtxt`` (``item { name: "..." id: 1 }``) or a csv of ``id,name``. Raises ValueError if it holds none."""
    text = path.read_text(encoding="utf-8")
    names: dict[int, str] = {}
    for block in re.findall(r"\b(?:item|label)\s*\{(.*?)\}", text, flags=re.DOTALL):
        name, number = re.search(r"name:\s*\"(.*?)\"", block), re.search(r"\b(?:id|label_id):\s*(\d+)", block)
        if name and number:
            names[int(number[1])] = name[1]
    if not names:
        for row in csv.reader(text.splitlines()):
            if len(row) >= 2 and row[0].strip().isdigit():
                names[int(row[0])] = row[1].strip()
    if not names:
        raise ValueError(f"{path}: expected items with a name and an id, or rows of id,name")
    return names


def write_results(path: Path, found: Mapping[Key, FrameBoxes]) -> None:
    """Detections as AVA's submission csv: ``video, second, x1, y1, x2, y2, action, score``."""
    lines = []
    for (video, second), boxes in found.items():
        for box, action, score in zip(boxes.boxes, boxes.classes, boxes.scores, strict=True):
            corners = ",".join(f"{value:.4f}" for value in box)
            lines.append(f"{video},{second:04g},{corners},{action},{score:.6f}\n")
    write_atomically(path, lambda temporary: temporary.write_text("".join(lines), encoding="utf-8"))
