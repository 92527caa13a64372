"""What every format reader returns: columns as stored, under this project's channel names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SYNONYMS = {
    "intensity": ("intensity", "intensities", "i", "reflectivity", "reflectance", "reflection", "scalar_intensity"),
    "elongation": ("elongation",),
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
    "nx": ("nx", "normal_x"),
    "ny": ("ny", "normal_y"),
    "nz": ("nz", "normal_z"),
    "ring": ("ring", "laser_id", "laser", "channel", "line"),
    "time": ("time", "time_offset", "t", "timestamp"),
}
_CHANNEL_OF = {synonym: channel for channel, synonyms in _SYNONYMS.items() for synonym in synonyms}
_MAX_SWEEP_SECONDS = 10.0


@dataclass
class RawPoints:
    """Columns of one file before units are settled.

    Attributes:
        xyz: ``(N, 3)`` floats of the file's own precision, metres.
        fields: channel name -> ``(N,)`` array as stored.
        sparse: the format marks "no return" by NaN coordinates (organised clouds), so such rows are no fault.
    """

    xyz: NDArray[Any]
    fields: dict[str, NDArray[Any]]
    sparse: bool = False


def from_named_columns(columns: Mapping[str, NDArray[Any]], *, sparse: bool) -> RawPoints:
    """Pick x, y, z and the channels this project knows out of named columns; unknown columns are left out.

    Names are matched without case, with the usual synonyms (``reflectivity``, ``normal_x``, ``red``, ...). Packed ``rgb`` / ``rgba``
    (PCL) becomes r, g, b in [0, 1]; 8 and 16-bit colours are scaled by their type. Times become seconds relative to the newest point
    (<= 0): integers are nanoseconds, floats seconds; a column that spans more than 10 s is no sweep time and is left out.

    Raises:
        ValueError: x, y or z is missing.
    """
    lower = {name.lower(): array for name, array in columns.items()}
    missing = [axis for axis in "xyz" if axis not in lower]
    if missing:
        raise ValueError(f"no column {missing[0]!r}; the file has {', '.join(columns) or 'none'}")
    xyz = np.stack([lower["x"], lower["y"], lower["z"]], axis=1)
    fields: dict[str, NDArray[Any]] = {}
    packed = lower.get("rgb", lower.get("rgba"))
    if packed is not None and packed.dtype.itemsize == 4:
        bits = np.ascontiguousarray(packed).view(np.uint32)
        for shift, color in ((16, "r"), (8, "g"), (0, "b")):
            fields[color] = ((bits >> shift) & 255).astype(np.float32) / 255
    for name, array in lower.items():
        channel = _CHANNEL_OF.get(name)
        if channel is None or channel in fields:
            continue
        if channel in "rgb" and array.dtype.kind == "u":
            array = array.astype(np.float32) / np.iinfo(array.dtype).max
        elif channel == "time":
            seconds = _sweep_time(array)
            if seconds is None:
                continue
            array = seconds
        fields[channel] = array
    return RawPoints(xyz=xyz, fields=fields, sparse=sparse)


def _sweep_time(array: NDArray[Any]) -> NDArray[np.float32] | None:
    seconds = array.astype(np.float64) * (1e-9 if array.dtype.kind in "iu" else 1.0)
    finite = seconds[np.isfinite(seconds)]
    if not len(finite) or finite.max() - finite.min() > _MAX_SWEEP_SECONDS:
        return None
    return (seconds - finite.max()).astype(np.float32)
