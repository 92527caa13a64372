"""Key frames of a nuScenes data set, parsed once: the json tables of v1.0-trainval take minutes and gigabytes at every start.

The cache lies in ``$SUITE3D_CACHE``, else ``$XDG_CACHE_HOME/suite3d``, else ``~/.cache/suite3d``; its name holds a hash of the folder and of
the size and time of every table, so a changed table is parsed again. A folder that cannot be written costs the parse, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.files import write_atomically
from suite3d.pointcloud.data.nuscenes_tables import BOX_COLUMNS, BoxTable, KeyFrame, Sweep, read_key_frames

_FORMAT = 1


def cached_key_frames(root: Path, version: str, *, sweeps: int, sensor: str = "LIDAR_TOP") -> list[KeyFrame]:
    """As :func:`read_key_frames`, from the cache where the tables have not changed. Raises what it raises."""
    path = _cache_file(root / version, sweeps, sensor)
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                return _unpack({name: stored[name] for name in stored.files})
        except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)  # cut short or of another format: parse again
    frames = read_key_frames(root, version, sweeps=sweeps, sensor=sensor)
    try:
        write_atomically(path, lambda temporary: _save(temporary, _pack(frames)))
    except OSError:
        pass  # a read-only home or a full disk: the frames are here, only the next start is slow again
    return frames


def _save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]  # the stub knows no named arrays


def _cache_file(folder: Path, sweeps: int, sensor: str) -> Path:
    home = os.environ.get("SUITE3D_CACHE")
    base = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "suite3d"
    tables = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.glob("*.json"))
    key = hashlib.sha256(repr((_FORMAT, str(folder.resolve()), sweeps, sensor, tables)).encode()).hexdigest()[:24]
    return base / "nuscenes" / f"{key}.npz"


def _pack(frames: list[KeyFrame]) -> dict[str, NDArray[Any]]:
    """Arrays without objects: sweeps once each, frames as rows of them."""
    rows: dict[int, int] = {}
    recordings: list[Sweep] = []
    for sweep in (sweep for frame in frames for sweep in frame.sweeps):
        if rows.setdefault(id(sweep), len(recordings)) == len(recordings):
            recordings.append(sweep)
    packed: dict[str, NDArray[Any]] = {
        "tokens": np.array([frame.token for frame in frames]),
        "scenes": np.array([frame.scene for frame in frames]),
        "files": np.array([sweep.file for sweep in recordings]),
        "timestamps": np.array([sweep.timestamp for sweep in recordings]),
        "poses": np.stack([sweep.pose for sweep in recordings]),
        "sweeps": np.array([rows[id(sweep)] for frame in frames for sweep in frame.sweeps]),
        "sweep_offsets": np.cumsum([0, *(len(frame.sweeps) for frame in frames)]),
    }
    tables = [frame.boxes for frame in frames if frame.boxes is not None]
    if tables:
        packed |= {f"box_{name}": np.concatenate([getattr(table, name) for table in tables]) for name in BOX_COLUMNS}
        packed["box_offsets"] = np.cumsum([0, *(len(table) for table in tables)])
        packed["names"] = np.array(json.dumps([tables[0].category_names, tables[0].attribute_names]))
    return packed


def _unpack(stored: dict[str, NDArray[Any]]) -> list[KeyFrame]:
    columns = (stored["files"].tolist(), stored["timestamps"].tolist(), stored["poses"])
    recordings = [Sweep(file, timestamp, pose) for file, timestamp, pose in zip(*columns, strict=True)]
    order = stored["sweeps"].tolist()
    sweeps = [tuple(recordings[row] for row in order[start:stop]) for start, stop in pairwise(stored["sweep_offsets"].tolist())]
    boxes: list[BoxTable | None] = [None] * len(sweeps)
    if "box_offsets" in stored:
        categories, attributes = json.loads(str(stored["names"]))
        table = BoxTable(**{name: stored[f"box_{name}"] for name in BOX_COLUMNS}, category_names=tuple(categories), attribute_names=tuple(attributes))
        boxes = [table.select(slice(start, stop)) for start, stop in pairwise(stored["box_offsets"].tolist())]
    return [KeyFrame(*parts) for parts in zip(stored["tokens"].tolist(), stored["scenes"].tolist(), sweeps, boxes, strict=True)]
