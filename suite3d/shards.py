"""Tar shards (WebDataset format): videos and pictures inside an archive, read without unpacking.

A member is addressed as a path through the archive: ``shard-000.tar/clip.mp4``. The members of an archive are listed once, from its headers
only; a read fetches just the bytes of one member.
"""

from __future__ import annotations

import functools
import os
import tarfile
from pathlib import Path

from suite3d.source import BadSample


def split_member(path: Path) -> tuple[Path, str] | None:
    """(archive, member name) of a path that goes through a tar file, or None."""
    for parent in path.parents:
        if parent.suffix == ".tar" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def members(archive: Path) -> dict[str, tuple[int, int]]:
    """Name -> (offset, size in bytes) of every file in the archive.

    Raises:
        BadSample: not an uncompressed tar, or cut off.
    """
    try:
        stat = archive.stat()
    except OSError as error:
        raise BadSample(archive, f"missing: {error.strerror}") from error
    return _members(str(archive), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _members(archive: str, modified: int, size: int) -> dict[str, tuple[int, int]]:
    try:
        with tarfile.open(archive, "r:") as tar:
            found = {member.name.removeprefix("./"): (member.offset_data, member.size) for member in tar if member.isfile()}
    except (tarfile.TarError, OSError) as error:
        raise BadSample(archive, f"cannot be read as an uncompressed tar: {error}") from error
    return {name: place for name, place in found.items() if place[0] + place[1] <= size}


def read_member(archive: Path, name: str) -> bytes:
    """Bytes of one member.

    Raises:
        BadSample: no such member, or the archive is cut off inside it.
    """
    place = members(archive).get(name)
    if place is None:
        raise BadSample(archive / name, "missing: no such file in the archive, or it is cut off")
    offset, size = place
    descriptor = os.open(archive, os.O_RDONLY)
    try:
        data = os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
    if len(data) < size:
        raise BadSample(archive / name, f"truncated: {len(data)} of {size} bytes")
    return data
