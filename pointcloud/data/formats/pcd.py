"""PCL point cloud files, version 0.5 to 0.7: ascii, binary and binary_compressed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.formats.lzf import lzf_decompress
from suite3d.pointcloud.data.formats.raw import RawPoints, from_named_columns

_MAX_HEADER = 65536


def read_pcd(path: Path) -> RawPoints:
    """Columns of a PCD file; rows whose coordinates are NaN are "no return" (``is_dense = false``).

    Format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
    Raises ValueError for anything that is not a whole PCD file.
    """
    data = path.read_bytes()
    header, body = _header(data)
    fields = _fields(header)
    points = int(header["POINTS"][0]) if "POINTS" in header else int(header["WIDTH"][0]) * int(header.get("HEIGHT", ["1"])[0])
    if points < 0:
        raise ValueError(f"POINTS is {points}")
    kind = header["DATA"][0].lower()
    if kind == "ascii":
        columns = _ascii(body, fields, points)
    elif kind == "binary":
        columns = _binary(body, fields, points)
    elif kind == "binary_compressed":
        columns = _compressed(body, fields, points)
    else:
        raise ValueError(f"DATA is {kind!r}, expected ascii, binary or binary_compressed")
    return from_named_columns(columns, sparse=True)


def _header(data: bytes) -> tuple[dict[str, list[str]], bytes]:
    header: dict[str, list[str]] = {}
    start = 0
    while start < min(len(data), _MAX_HEADER):
        end = data.find(b"\n", start)
        if end < 0:
            break
        words = data[start:end].decode("ascii", errors="replace").split("#", 1)[0].split()
        start = end + 1
        if words:
            header[words[0].upper()] = words[1:]
            if words[0].upper() == "DATA":
                missing = [key for key in ("FIELDS", "SIZE", "TYPE", "WIDTH", "DATA") if not header.get(key)]
                if missing:
                    raise ValueError(f"PCD header lacks {missing[0]}")
                return header, data[start:]
    raise ValueError("not a PCD file: no DATA line in its header")


def _fields(header: dict[str, list[str]]) -> list[tuple[str, np.dtype[Any], int]]:
    """(name, type, count) a field, in file order."""
    names, sizes, types = header["FIELDS"], header["SIZE"], header["TYPE"]
    counts = header.get("COUNT", ["1"] * len(names))
    if not len(names) == len(sizes) == len(types) == len(counts):
        raise ValueError(f"PCD header: {len(names)} FIELDS, {len(sizes)} SIZE, {len(types)} TYPE, {len(counts)} COUNT")
    letter = {"F": "f", "U": "u", "I": "i"}
    bad = next((kind for kind in types if kind.upper() not in letter), None)
    if bad is not None:
        raise ValueError(f"PCD header: TYPE {bad!r}, expected F, U or I")
    return [(name, np.dtype(f"<{letter[kind.upper()]}{size}"), int(count)) for name, size, kind, count in zip(names, sizes, types, counts)]


def _ascii(body: bytes, fields: list[tuple[str, np.dtype[Any], int]], points: int) -> dict[str, NDArray[Any]]:
    width = sum(count for _, _, count in fields)
    table = np.loadtxt(io.BytesIO(body), dtype=np.float64, ndmin=2, max_rows=points, comments=None) if body.strip() else np.empty((0, width))
    if table.shape != (points, width):
        raise ValueError(f"expected {points} rows of {width} columns, got {table.shape[0]} of {table.shape[1]}: truncated")
    columns, column = {}, 0
    for name, dtype, count in fields:
        if count == 1:
            values = table[:, column]
            # PCL writes a packed colour of type F as the float whose bits it is
            columns[name] = values.astype(dtype if np.isfinite(values).all() else np.dtype(np.float64))
        column += count
    return columns


def _binary(body: bytes, fields: list[tuple[str, np.dtype[Any], int]], points: int) -> dict[str, NDArray[Any]]:
    record = np.dtype([(f"{name}.{place}", dtype, (count,)) for place, (name, dtype, count) in enumerate(fields)])
    if len(body) < points * record.itemsize:
        raise ValueError(f"expected {points} records of {record.itemsize} bytes, got {len(body)} bytes: truncated")
    rows = np.frombuffer(body, dtype=record, count=points)
    return {name: rows[f"{name}.{place}"][:, 0] for place, (name, _, count) in enumerate(fields) if count == 1}


def _compressed(body: bytes, fields: list[tuple[str, np.dtype[Any], int]], points: int) -> dict[str, NDArray[Any]]:
    if len(body) < 8:
        raise ValueError("truncated before the compressed block")
    packed, unpacked = (int(value) for value in np.frombuffer(body, dtype="<u4", count=2))
    expected = points * sum(dtype.itemsize * count for _, dtype, count in fields)
    if unpacked != expected:
        raise ValueError(f"compressed block holds {unpacked} bytes, the header says {expected}")
    if len(body) < 8 + packed:
        raise ValueError(f"compressed block of {packed} bytes, got {len(body) - 8}: truncated")
    data = lzf_decompress(body[8 : 8 + packed], unpacked)
    columns, start = {}, 0
    for name, dtype, count in fields:  # one field after the other, not interleaved
        size = points * dtype.itemsize * count
        if count == 1:
            columns[name] = data[start : start + size].view(dtype)
        start += size
    return columns
