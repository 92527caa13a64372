"""Lists of clips, told apart by looking at them: folders, class folders, text and json lists, official splits, tar shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from suite3d.engine.files import read_json_lines
from suite3d.video.data.lists_files import FileFinder, kind_of
from suite3d.video.data.lists_folder import scan_folder
from suite3d.video.data.lists_official import hmdb51, kinetics_table, something, ucf101, ucf101_files, with_header
from suite3d.video.data.lists_text import Row, read_rows

ItemKind = Literal["video", "frames", "image"]
LAYOUTS = ("auto", "folder", "class folders", "path start total", "dir frames label", "ssv2", "ucf101", "hmdb51")
USABLE_PROBLEMS = frozenset({"variable frame rate", "rotated"})  # recorded by `data check`, but they decode right


@dataclass(frozen=True)
class VideoItem:
    """One clip source.

    Attributes:
        path: video file, folder of images, still image, or ``archive.tar/member``.
        label: class index, None where there is none.
        start: first frame of the part that belongs to the item.
        frames: number of frames of that part; None for all to the end.
        kind: what ``path`` is.
    """

    path: Path
    label: int | None
    start: int = 0
    frames: int | None = None
    kind: ItemKind = "video"


@dataclass(frozen=True)
class VideoList:
    """What a list holds and what of it is there.

    Attributes:
        items: clips whose files exist and are not quarantined, in the order of the list.
        classes: class names by index (the index itself where the list has no names); empty without labels.
        missing: files of the list that are not there, where they were looked for.
        kind: which sort of list it was taken for.
        excluded: problem -> number of items left out by the quarantine file.
    """

    items: list[VideoItem]
    classes: list[str]
    missing: list[Path]
    kind: str
    excluded: dict[str, int] = field(default_factory=dict)

    def describe(self) -> str:
        """One line for a person: what, how many, what is missing, what is left out."""
        total = len(self.items) + len(self.missing) + sum(self.excluded.values())
        parts = [f"{self.kind}: {len(self.items)} clips" + (f" of {len(self.classes)} classes" if self.classes else ", no labels")]
        if self.missing:
            parts.append(f"missing {len(self.missing)} of {total}")
        if self.excluded:
            reasons = ", ".join(f"{count} {problem}" for problem, count in sorted(self.excluded.items()))
            parts.append(f"{sum(self.excluded.values())} left out by the quarantine file ({reasons})")
        return "; ".join(parts)


def read_list(
    root: Path | str,
    *,
    list_file: Path | str | None = None,
    labels_file: Path | str | None = None,
    layout: str = "auto",
    split: str | None = None,
    fold: int = 1,
    images: str = "auto",
    quarantine: Path | str | None = None,
) -> VideoList:
    """Clips of a folder or list.

    =================== ==================================================================================================================
    folder              every video below ``root`` (else frame folders, else stills), no labels
    class folders       ``root/CLASS/x.mp4``; also below ``train``, ``val``, ``test`` (then ``split`` says which)
    shards              ``.tar`` files of videos; ``x.cls`` or ``x.json`` with "label" beside ``x.mp4`` give the label
    path label          Kinetics style, separated by blank, comma, tab or ``::``; the label a number or a name; also paths alone
    path start total    VideoMAE V2 pretraining; total -1 = to the end
    dir frames label    mmaction2 raw frames
    table               csv with a header: path, label[, start_frame][, end_frame][, frames]; Kinetics' own (youtube_id, time_start, ...)
    ssv2                Something-Something json with ids and templates; ``labels.json`` beside it
    ucf101, hmdb51      official split files, or the folder of them with ``split`` and ``fold``
    =================== ==================================================================================================================

    Args:
        root: the folder the paths of the list are relative to (the list's own folder is tried next), or the list itself.
        list_file: list, or folder of split files.
        labels_file: class names: SSv2 labels json, UCF101 classInd.txt, or one name a line (``index name`` or ``name``).
        layout: one of ``LAYOUTS`` to overrule the detection.
        split, fold: for layouts that hold several.
        images: "frames" or "stills" where a folder of numbered pictures could be either; "auto" refuses to guess.
        quarantine: file written by ``suite3d data check``; unusable clips are left out and counted.

    Raises:
        ValueError: nothing found, none of the listed files exists, a line that does not fit, or a list that could mean two things.
    """
    root = Path(root)
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    if list_file is None and root.is_file() and root.suffix != ".tar":
        list_file, root = root, root.parent
    if not root.exists():
        raise ValueError(f"{root}: no such folder")
    if list_file is None:
        kind, rows, classes = scan_folder(root, split=split, images=images, layout=layout)
    else:
        list_file = Path(list_file)
        if not list_file.exists():
            raise ValueError(f"{list_file}: no such list")
        labels = None if labels_file is None else Path(labels_file)
        kind, rows, classes = _read_file(list_file, root, labels=labels, layout=layout, split=split, fold=fold)
    if not rows:
        raise ValueError(f"{list_file or root}: holds no clips")
    found = _resolve(rows, classes, kind, [root] if list_file is None else [root, list_file if list_file.is_dir() else list_file.parent])
    if not found.items:
        raise ValueError(
            f"{list_file or root}: none of its {len(found.missing)} files exists; the first was looked for at {found.missing[0]}: is root right?"
        )
    return found if quarantine is None else _without(found, Path(quarantine), root)


def _read_file(path: Path, root: Path, *, labels: Path | None, layout: str, split: str | None, fold: int) -> tuple[str, list[Row], list[str] | None]:
    """(kind, rows, class names or None) of a list file or folder of split files."""
    if path.is_dir():
        if any(path.glob("*_test_split[0-9].txt")):
            return hmdb51(path, split=split, fold=fold)
        return ucf101(ucf101_files(path, split=split, fold=fold), labels)
    if layout == "hmdb51" or path.match("*_test_split[0-9].txt"):
        return hmdb51(path, split=split, fold=fold)
    if layout == "ucf101" or path.match("trainlist*.txt") or path.match("testlist*.txt"):
        return ucf101(path, labels)
    if layout == "ssv2" or path.suffix.lower() == ".json":
        return something(path, labels)
    header = with_header(path)
    if header is not None and {"youtube_id", "time_start", "time_end"} <= set(header):
        return kinetics_table(path, split=split)
    return read_rows(path, root, labels=labels, layout=layout, header=header)


def _resolve(rows: Sequence[Row], classes: list[str] | None, kind: str, bases: list[Path]) -> VideoList:
    finder = FileFinder(bases)
    names = sorted({row.label for row in rows if isinstance(row.label, str)}) if classes is None else classes
    if classes is None and not names:
        highest = max((row.label for row in rows if isinstance(row.label, int)), default=-1)
        names = [str(label) for label in range(highest + 1)]
    number = {name: index for index, name in enumerate(names)}
    items, missing = [], []
    for row in rows:
        path = row.found or next(filter(None, map(finder.find, row.places)), None)
        if path is None:
            missing.append(finder.expected(row.places[0]))
            continue
        if isinstance(row.label, str) and row.label not in number:
            raise ValueError(f"{row.places[0]}: class {row.label!r} is not among the {len(names)} known ones")
        if isinstance(row.label, int) and not 0 <= row.label < len(names):
            raise ValueError(f"{row.places[0]}: label {row.label} is outside 0..{len(names) - 1}")
        label = number[row.label] if isinstance(row.label, str) else row.label
        items.append(VideoItem(path, label, row.start, row.frames, cast(ItemKind, kind_of(path))))
    return VideoList(items, names, missing, kind)


def _without(found: VideoList, quarantine: Path, root: Path) -> VideoList:
    """The list without what a check found unusable."""
    if not quarantine.is_file():
        raise ValueError(f"{quarantine}: no such quarantine file; `suite3d data check` writes one")
    base = root if root.is_dir() else root.parent
    problems: dict[Path, str] = {}
    for row in read_json_lines(quarantine):
        if row.get("problem") not in USABLE_PROBLEMS and "path" in row:
            path = Path(row["path"])
            problems[(path if path.is_absolute() else base / path).resolve()] = str(row["problem"])
    marks = [problems.get(item.path.resolve()) for item in found.items]
    excluded = Counter(mark for mark in marks if mark is not None)
    items = [item for item, mark in zip(found.items, marks) if mark is None]
    if not items:
        raise ValueError(f"{quarantine}: leaves none of {len(marks)} clips: {dict(excluded)}")
    return VideoList(items, found.classes, found.missing, found.kind, dict(excluded))
