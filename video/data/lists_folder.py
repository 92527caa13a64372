"""Folders and tar shards without a list."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from pathlib import Path

from suite3d.image.decode import is_image, natural_key
from suite3d.shards import members, read_member
from suite3d.source import BadSample
from suite3d.video.data.lists_files import is_video
from suite3d.video.data.lists_text import Row
from suite3d.video.data.stills import frame_files

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_FRAME_PREFIXES = ("img", "image", "frame", "im", "img_", "image_", "frame_", "im_", "frame-", "img-")
Found = tuple[str, list[Row], list[str] | None]


def scan_folder(root: Path, *, split: str | None, images: str, layout: str) -> Found:
    """(kind, rows, class names) of everything below ``root``: videos, else shards, else pictures.

    Raises:
        ValueError: nothing found, splits mixed, or numbered pictures that may be frames or stills.
    """
    if images not in ("auto", "frames", "stills"):
        raise ValueError(f"images: expected auto, frames or stills, got {images!r}")
    if root.suffix == ".tar" and root.is_file():
        return _shards([root])
    root = _choose_split(root, split)
    videos, shards, pictures = _walk(root)
    if videos and images == "auto":
        return _labelled(root, videos, layout)
    if shards and not videos:
        return _shards(shards)
    clips = _pictures(root, pictures, images) if pictures else []
    if not videos and not clips:
        raise ValueError(f"{root}: holds no videos, no frame folders, no pictures and no tar shards")
    return _labelled(root, [*videos, *clips], layout)


def _choose_split(root: Path, split: str | None) -> Path:
    """``root/split`` where the folder is divided into splits."""
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    divided = [name for name in folders if name.lower() in _SPLITS]
    if split is not None:
        if split not in folders:
            raise ValueError(f"{root}: split={split!r}, but it holds {', '.join(folders) or 'no folders'}")
        return root / split
    if len(divided) > 1 and divided == folders:
        raise ValueError(f"{root}: is divided into {', '.join(divided)}: say which, for example split={divided[-1]!r}")
    return root / divided[0] if divided and divided == folders else root


def _walk(root: Path) -> tuple[list[Path], list[Path], dict[Path, list[Path]]]:
    """(videos, tar files, folder -> pictures), in natural order; hidden names are passed over, links to folders followed once."""
    videos, shards, pictures, seen = [], [], defaultdict(list), set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(folder, name) for name in names if not name.startswith(".")):
            if is_video(path):
                videos.append(path)
            elif path.suffix == ".tar":
                shards.append(path)
            elif is_image(path):
                pictures[path.parent].append(path)
    return sorted(videos, key=natural_key), sorted(shards, key=natural_key), pictures


def _labelled(root: Path, paths: list[Path], layout: str) -> Found:
    """Class folders when every clip lies exactly one folder below root and there are at least two such folders."""
    depths = {len(path.relative_to(root).parts) for path in paths}
    classes = sorted({path.parent.name for path in paths})
    by_class = depths == {2} and len(classes) > 1
    if layout == "class folders" and not by_class:
        raise ValueError(f"{root}: layout='class folders' needs every clip in root/CLASS/, at least two classes")
    if by_class and layout != "folder":
        return "class folders", [Row((str(path.relative_to(root)),), path.parent.name, found=path) for path in paths], classes
    return "folder", [Row((str(path.relative_to(root)),), found=path) for path in paths], []


def _pictures(root: Path, folders: dict[Path, list[Path]], images: str) -> list[Path]:
    """Frame folders and stills."""
    clips: list[Path] = []
    for folder in sorted(folders, key=natural_key):
        kind = images if images != "auto" else _frames_or_stills(folder)
        if kind == "frames" and folder != root:
            clips.append(folder)
        else:
            clips.extend(sorted(folders[folder], key=natural_key))
    return clips


def _frames_or_stills(folder: Path) -> str:
    """Pictures img_00001.jpg, img_00002.jpg, ... are frames; names without a running number are stills; bare running numbers could be either."""
    files = frame_files(folder)
    parts = [re.fullmatch(r"(.*?)(\d+)", path.stem) for path in files]
    if len(files) < 2 or not all(parts):
        return "stills"
    prefixes = {part[1] for part in parts if part}
    numbers = sorted(int(part[2]) for part in parts if part)
    if len(prefixes) > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return "stills"
    if prefixes.pop().lower() in _FRAME_PREFIXES:
        return "frames"
    raise ValueError(
        f"{folder}: its {len(files)} numbered pictures ({files[0].name}, ...) may be the frames of one video or stills: "
        "say images=frames or images=stills"
    )


def _shards(shards: list[Path]) -> Found:
    """Members of WebDataset shards; the label from ``.cls`` or ``.json`` of the same stem."""
    rows = []
    for shard in shards:
        try:
            names = members(shard)
        except BadSample as bad:
            raise ValueError(str(bad)) from bad
        for name in names:
            if is_video(Path(name)) or is_image(Path(name)):
                path = shard / name
                rows.append(Row((str(path),), _member_label(shard, name, names), found=path))
    if not rows:
        raise ValueError(f"{shards[0]}: no videos or pictures in {len(shards)} tar files")
    labelled = any(row.label is not None for row in rows)
    return "shards", rows, None if labelled else []


def _member_label(shard: Path, name: str, names: dict[str, tuple[int, int]]) -> int | str | None:
    stem = name.rsplit(".", 1)[0]
    if f"{stem}.cls" in names:
        text = read_member(shard, f"{stem}.cls").decode("utf-8", "replace").strip()
        return int(text) if text.isdecimal() else text
    if f"{stem}.json" in names:
        try:
            label = json.loads(read_member(shard, f"{stem}.json")).get("label")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{shard}/{stem}.json: expected a json object: {error}") from error
        return label if isinstance(label, (int, str)) else None
    return None
