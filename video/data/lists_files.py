"""Where the files of a list are on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from suite3d.image.decode import IMAGE_SUFFIXES

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".gif", ".vob"}
)


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


class FileFinder:
    """Finds listed files under a few base folders, reading each folder once.

    A path is looked for as it stands (when absolute), then under each base. If nothing has that very name, a file in the same place with the
    same stem and another video suffix is taken (``x`` or ``x.webm`` in the list, ``x.mp4`` on disk: ids without suffix, re-encoded copies).

    Args:
        bases: folders, in order of preference.
    """

    def __init__(self, bases: list[Path]) -> None:
        self._bases = list(dict.fromkeys(bases))
        self._folders: dict[Path, tuple[frozenset[str], dict[str, str]]] = {}

    def find(self, listed: str) -> Path | None:
        """The file or frame folder, or None."""
        for path in [Path(listed)] if os.path.isabs(listed) else [base / listed for base in self._bases]:
            names, by_stem = self._folder(path.parent)
            if path.name in names:
                return path
            other = by_stem.get(path.name) or by_stem.get(path.stem if path.suffix.lower() in VIDEO_SUFFIXES else "")
            if other is not None:
                return path.with_name(other)
        return None

    def expected(self, listed: str) -> Path:
        """Where a missing file was looked for first."""
        return self._bases[0] / listed

    def _folder(self, folder: Path) -> tuple[frozenset[str], dict[str, str]]:
        """(names, video names by stem) of a folder; empty when it is not there."""
        if folder not in self._folders:
            try:
                names = sorted(os.listdir(folder)) if folder.name not in ("", "..") or folder.is_dir() else []
            except OSError:
                names = []
            stems = {name.rsplit(".", 1)[0]: name for name in reversed(names) if is_video(Path(name))}
            self._folders[folder] = frozenset(names), stems
        return self._folders[folder]


def kind_of(path: Path) -> str:
    """ "video", "frames" (a folder of images) or "image"."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "video"
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return "image"
    return "frames" if path.is_dir() else "video"
