"""The split files that data sets ship: UCF101, HMDB51, Something-Something V2, Kinetics."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from suite3d.video.data.lists_text import _PATH_NAMES, Row, class_names, read_text

Found = tuple[str, list[Row], list[str] | None]
_HMDB = re.compile(r"^(?P<name>.+)_test_split(?P<fold>\d)$")


def ucf101_files(folder: Path, *, split: str | None, fold: int) -> Path:
    """The split file of a folder such as ``ucfTrainTestlist``.

    Raises:
        ValueError: no split files, or which is not said.
    """
    if not any(folder.glob("*list0[0-9].txt")):
        raise ValueError(f"{folder}: holds neither UCF101 (trainlist01.txt) nor HMDB51 (brush_hair_test_split1.txt) split files")
    if split not in ("train", "test"):
        raise ValueError(f"{folder}: holds train and test lists: say split='train' or split='test', got {split!r}")
    path = folder / f"{split}list{fold:02d}.txt"
    if not path.is_file():
        raise ValueError(f"{path}: no such split file (fold={fold})")
    return path


def ucf101(path: Path, labels: Path | None) -> Found:
    """``Class/v_Class_g01_c01.avi [index from 1]``; names from classInd.txt, else from the class folders of the list."""
    names_file = labels or path.with_name("classInd.txt")
    names = class_names(names_file) if names_file.is_file() else None
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(?P<path>(?P<name>[^/]+)/.+?\.\w+)(?:\s+(?P<index>\d+))?", line.strip())
        if match is None:
            raise ValueError(f"{path}, line {number}: expected 'Class/video.avi' or 'Class/video.avi index', got {line!r}")
        index = match["index"]
        if names is not None and index is not None and (not 1 <= int(index) <= len(names) or names[int(index) - 1] != match["name"]):
            raise ValueError(f"{path}, line {number}: index {index} is not that of {match['name']!r} in {names_file}")
        rows.append(Row((match["path"], Path(match["path"]).name), match["name"]))
    if names is None and len({row.label for row in rows}) != 101:
        names = sorted({str(row.label) for row in rows})
    return "ucf101", rows, names


def hmdb51(path: Path, *, split: str | None, fold: int) -> Found:
    """``<class>_test_split<fold>.txt`` with ``video.avi 0|1|2`` = unused, train, test; one file or the folder of all."""
    if split not in ("train", "test"):
        raise ValueError(f"{path}: HMDB51 split files hold train and test clips: say split='train' or split='test', got {split!r}")
    files = sorted(path.glob(f"*_test_split{fold}.txt")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: no *_test_split{fold}.txt in it (fold={fold})")
    wanted = "1" if split == "train" else "2"
    rows, names = [], []
    for file in files:
        match = _HMDB.match(file.stem)
        name = match["name"] if match is not None else file.stem
        names.append(name)
        for number, line in enumerate(read_text(file).splitlines(), 1):
            fields = line.strip().rsplit(None, 1)
            if not fields:
                continue
            if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
                raise ValueError(f"{file}, line {number}: expected 'video.avi 0|1|2', got {line!r}")
            if fields[1] == wanted:
                rows.append(Row((f"{name}/{fields[0]}", fields[0]), name))
    return f"hmdb51 split {fold} {split}", rows, names


def something(path: Path, labels: Path | None) -> Found:
    """Something-Something: ``[{"id": "74225", "template": "Putting [something] on a surface", ...}, ...]``."""
    rows_in = _json(path)
    if not isinstance(rows_in, list) or not all(isinstance(row, dict) and "id" in row for row in rows_in):
        raise ValueError(f"{path}: expected a json list of objects with 'id' and 'template' (Something-Something)")
    names_file = labels or next((found for found in _label_files(path) if found.is_file()), None)
    names = None
    if names_file is not None:
        table = _json(names_file)
        if not isinstance(table, dict) or sorted(map(int, table.values())) != list(range(len(table))):
            raise ValueError(f"{names_file}: expected an object of template -> index 0..n-1")
        names = [name for name, _ in sorted(table.items(), key=lambda pair: int(pair[1]))]
    rows = []
    for row in rows_in:
        template = row.get("template")
        name = None if template is None else str(template).replace("[", "").replace("]", "")
        rows.append(Row((str(row["id"]), f"{row['id']}.webm", f"{row['id']}.mp4"), name))
    return "ssv2", rows, names if any(row.label is not None for row in rows) else []


def _label_files(path: Path) -> list[Path]:
    return [path.with_name(name) for name in ("labels.json", "something-something-v2-labels.json")]


def with_header(path: Path) -> list[str] | None:
    """Column names in lower case when the first line is a header with a column this package knows, else None."""
    first = read_text(path).lstrip().split("\n", 1)[0].strip()
    for separator in ("\t", ",", ";", " "):
        cells = [cell.strip().strip('"').lower() for cell in first.split(separator)]
        if len(cells) > 1 and ("youtube_id" in cells or (set(cells) & set(_PATH_NAMES) and all(cell.replace("_", "").isalpha() for cell in cells))):
            return cells
    return None


def kinetics_table(path: Path, *, split: str | None) -> Found:
    """The csv Kinetics is published as; files are ``[class/]<youtube_id>_<start:06d>_<end:06d>.mp4`` or ``<youtube_id>.mp4``."""
    rows = []
    for number, row in enumerate(csv.DictReader(read_text(path).splitlines()), 2):
        if split is not None and row.get("split") and row["split"] != split:
            continue
        try:
            span = f"{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: time_start and time_end are not numbers") from error
        name, label = f"{row['youtube_id']}_{span}.mp4", row.get("label") or None
        short = f"{row['youtube_id']}.mp4"
        in_class = () if label is None else (f"{label}/{name}", f"{label.replace(' ', '_')}/{name}", f"{label}/{short}")
        rows.append(Row((name, *in_class, short), label))
    return "kinetics csv", rows, None


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path}: not json: {error}") from error
