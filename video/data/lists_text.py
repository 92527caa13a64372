"""Text lists: which separator, which columns. Found by trying the few possibilities on the lines and counting the files that exist."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from suite3d.image.decode import is_image
from suite3d.video.data.lists_files import FileFinder, is_video
from suite3d.video.data.stills import frame_files

SEPARATORS = ("::", "\t", ",", ";", " ")
_SAMPLE = 200
_PATH_NAMES = ("path", "video", "video_path", "filename", "file", "filepath", "video_name", "name")
_LABEL_NAMES = ("label", "class", "label_name", "class_name", "label_id", "target", "action")
_LENGTH_NAMES = ("frames", "n_frames", "num_frames", "total_frames")
_START_NAMES = ("start_frame", "start")
_STOP_NAMES = ("end_frame", "stop_frame", "stop", "end")


@dataclass(frozen=True)
class Row:
    """One line of a list.

    Attributes:
        places: where the file may be, relative to a base folder, in order.
        label: class index, class name, or None.
        start, frames: the part of the video; frames None = to the end.
        found: the file itself where it is known already.
    """

    places: tuple[str, ...]
    label: int | str | None = None
    start: int = 0
    frames: int | None = None
    found: Path | None = None


@dataclass(frozen=True)
class _Shape:
    """A way to read lines: separator, and how many whole numbers (and whether one name) stand at the end."""

    separator: str
    numbers: int
    named: bool

    def split(self, line: str) -> tuple[str, list[str]] | None:
        """(path, trailing fields), or None when the line does not have this shape."""
        tail = self.numbers + self.named
        fields = _fields(line, self.separator, tail)
        if fields is None or not fields[0]:
            return None
        path, values = fields[0], fields[1:]
        if self.named:
            return (path, values) if values[0] and not _is_int(values[0]) and not (is_video(Path(values[0])) or is_image(Path(values[0]))) else None
        return (path, values) if all(map(_is_int, values)) else None


def read_rows(path: Path, root: Path, *, labels: Path | None, layout: str, header: list[str] | None) -> tuple[str, list[Row], list[str] | None]:
    """(kind, rows, class names or None) of a text list.

    Raises:
        ValueError: empty, a line unlike the others, or three columns that could mean two things.
    """
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    names = None if labels is None else class_names(labels)
    if header is not None:
        return "table", _table(path, header), names
    if not lines:
        raise ValueError(f"{path}: is empty")
    shape = _find_shape(path, lines, root)
    parsed = []
    for number, line in lines:
        parts = shape.split(line)
        if parts is None:
            raise ValueError(f"{path}, line {number}: expected {_say(shape)} as in the other lines, got {line!r}")
        parsed.append(parts)
    if shape.numbers == 2:
        return _three_columns(path, root, parsed, layout, names)
    if shape.numbers + shape.named == 0:
        return "paths", [Row((name,)) for name, _ in parsed], names
    return "path label", [Row((name,), values[0] if shape.named else int(values[0])) for name, values in parsed], names


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as a text list: {error}") from error


def class_names(path: Path) -> list[str]:
    """Class names of a file with one a line (``name``, ``index name`` from 0 or 1, ``index,name``).

    Raises:
        ValueError: indices that are not 0..n-1 or 1..n.
    """
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if lines and lines[0].lower().replace(" ", "") in ("id,name", "index,name", "id,label"):
        lines = lines[1:]
    pairs = [line.replace(",", " ", 1).split(None, 1) for line in lines]
    if not all(len(pair) == 2 and _is_int(pair[0]) for pair in pairs):
        return lines
    by_index = {int(index): name for index, name in pairs}
    first = min(by_index, default=0)
    if first not in (0, 1) or sorted(by_index) != list(range(first, first + len(pairs))):
        raise ValueError(f"{path}: class indices must be 0..n-1 or 1..n, each once")
    return [by_index[index] for index in sorted(by_index)]


def _find_shape(path: Path, lines: list[tuple[int, str]], root: Path) -> _Shape:
    """The shape all sampled lines have and under which most files exist; fewer columns on a tie without any file."""
    step = max(1, len(lines) // _SAMPLE)
    sample = [line for _, line in lines[::step]][:_SAMPLE]
    finder = FileFinder([root, path.parent])
    best: tuple[tuple[int, int, int], _Shape] | None = None
    for order, separator in enumerate(SEPARATORS):
        for numbers, named in ((2, False), (1, False), (0, True), (0, False)):
            shape = _Shape(separator, numbers, named)
            parts = [shape.split(line) for line in sample]
            if sum(part is not None for part in parts) < max(1, 0.9 * len(parts)):  # a few odd lines are reported by number later
                continue
            exist = sum(part is not None and finder.find(part[0]) is not None for part in parts)
            rank = (exist, 2 * numbers + named, -order)
            if best is None or rank > best[0]:
                best = rank, shape
    if best is None:
        raise ValueError(f"{path}: no separator (blank, comma, tab, '::') gives the same columns in every line; the first line is {sample[0]!r}")
    return best[1]


def _three_columns(
    path: Path, root: Path, parsed: Sequence[tuple[str, list[str]]], layout: str, names: list[str] | None
) -> tuple[str, list[Row], list[str] | None]:
    """``path start total`` or ``dir frames label``."""
    pairs = [(int(first), int(second)) for _, (first, second) in parsed]
    windows = all(first in (0, 1) for first, _ in pairs) or any(total == -1 for _, total in pairs)
    folders = not any(is_video(Path(name)) for name, _ in parsed)
    if layout not in ("auto", "path start total", "dir frames label"):
        raise ValueError(f"{path}: has three columns; layout must be 'path start total' or 'dir frames label', got {layout!r}")
    if layout == "path start total" or (layout == "auto" and windows):
        dirs = [name for name, _ in parsed if not is_video(Path(name))]
        first = _first_number(path, root, dirs) if dirs else 0  # VideoMAE V2 counts frame files by their number, which mostly begins at 1
        rows = [
            Row((name,), None, start if is_video(Path(name)) else max(start - first, 0), None if total < 0 else total)
            for (name, _), (start, total) in zip(parsed, pairs)
        ]
        return "path start total", rows, names
    if layout == "dir frames label" or folders:
        return "dir frames label", [Row((name,), label, 0, count) for (name, _), (count, label) in zip(parsed, pairs)], names
    raise ValueError(
        f"{path}: '{parsed[0][0]} {pairs[0][0]} {pairs[0][1]}' could mean path, start, total or path, frames, label: "
        "say layout='path start total' or layout='dir frames label'"
    )


def _first_number(path: Path, root: Path, names: Sequence[str]) -> int:
    """The number of the first image in the first frame folder that exists: what ``start`` counts from."""
    finder = FileFinder([root, path.parent])
    for name in names[:_SAMPLE]:
        folder = finder.find(name)
        if folder is not None and folder.is_dir():
            files = frame_files(folder)
            digits = "".join(filter(str.isdigit, files[0].stem[-8:])) if files else ""
            return int(digits) if digits else 0
    return 1


def _table(path: Path, header: list[str]) -> list[Row]:
    """Rows of a csv with a header."""

    def column(names: Sequence[str]) -> int | None:
        return next((header.index(name) for name in names if name in header), None)

    where, label, length = column(_PATH_NAMES), column(_LABEL_NAMES), column(_LENGTH_NAMES)
    start, stop = column(_START_NAMES), column(_STOP_NAMES)
    assert where is not None, "with_header() only accepts headers with a path column"
    rows = []
    text = read_text(path)
    separator = next((mark for mark in ("\t", ",", ";", " ") if mark in text.splitlines()[0]), ",")
    for number, cells in enumerate(csv.reader(text.splitlines()[1:], delimiter=separator), 2):
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {number}: expected {len(header)} columns as in its header, got {len(cells)}")
        values = {place: _whole(path, number, cells[place]) for place in (start, stop, length) if place is not None}
        first = 0 if start is None else values[start]
        count = values[stop] - first if stop is not None else None if length is None else values[length]
        name = None if label is None or not cells[label] else cells[label].strip()
        rows.append(Row((cells[where].strip(),), int(name) if name is not None and _is_int(name) else name, first, count))
    return rows


def _whole(path: Path, number: int, cell: str) -> int:
    if not _is_int(cell.strip()):
        raise ValueError(f"{path}, line {number}: expected a whole number of frames, got {cell!r}")
    return int(cell)


def _fields(line: str, separator: str, tail: int) -> list[str] | None:
    """Path and the last ``tail`` fields; the path keeps separators it contains."""
    if separator == "," and '"' in line:
        cells = next(csv.reader([line]))
        return [",".join(cells[: len(cells) - tail]), *cells[len(cells) - tail :]] if len(cells) > tail else None
    parts = line.rsplit(None if separator == " " else separator, tail) if tail else [line]
    return [part.strip() for part in parts] if len(parts) == tail + 1 else None


def _is_int(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _say(shape: _Shape) -> str:
    mark = {" ": "blank", "\t": "tab", ",": "comma"}.get(shape.separator, shape.separator)
    if shape.numbers == 2:
        return f"a path and two whole numbers separated by {mark}"
    if shape.numbers == 1:
        return f"a path and a whole number separated by {mark}"
    return f"a path and a class name separated by {mark}" if shape.named else "a path"
