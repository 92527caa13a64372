"""Stanford polygon files: the vertices of ascii, binary_little_endian and binary_big_endian PLY."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.formats.raw import RawPoints, from_named_columns

_TYPES = {"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2"}
_TYPES |= {"int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8"}
_ORDER = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass
class _Element:
    name: str
    count: int
    properties: list[tuple[str, str]] = field(default_factory=list)
    has_list: bool = False


def read_ply(path: Path) -> RawPoints:
    """Vertex columns of a PLY file; faces and other elements after the vertices are not read.

    Format: Greg Turk, "The PLY Polygon File Format" (1994).
    Raises ValueError for anything that is not a whole PLY file with scalar vertex properties.
    """
    data = path.read_bytes()
    kind, elements, body = _header(data)
    skip = 0
    for element in elements:
        if element.name == "vertex":
            return from_named_columns(_vertices(element, kind, body, skip), sparse=True)
        if element.has_list:
            raise ValueError(f"element {element.name!r} with a list property comes before the vertices")
        skip += element.count if kind == "ascii" else element.count * _record(element, kind).itemsize
    raise ValueError("no vertex element")


def _header(data: bytes) -> tuple[str, list[_Element], bytes]:
    if not data.startswith((b"ply\n", b"ply\r\n")):
        raise ValueError("not a PLY file: it does not start with 'ply'")
    end = data.find(b"end_header")
    body = data.find(b"\n", end) + 1
    if end < 0 or body == 0:
        raise ValueError("PLY header has no end_header line")
    kind, elements = "", list[_Element]()
    for line in data[:end].decode("ascii", errors="replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) > 1:
            kind = words[1]
        elif words[0] == "element" and len(words) == 3:
            elements.append(_Element(words[1], int(words[2])))
        elif words[0] == "property" and elements and len(words) == 3 and words[1] in _TYPES:
            elements[-1].properties.append((words[2], _TYPES[words[1]]))
        elif words[0] == "property" and elements and len(words) == 5 and words[1] == "list":
            elements[-1].has_list = True
        else:
            raise ValueError(f"PLY header line not understood: {line!r}")
    if kind not in _ORDER:
        raise ValueError(f"PLY format {kind!r}, expected one of {', '.join(_ORDER)}")
    return kind, elements, data[body:]


def _record(element: _Element, kind: str) -> np.dtype[Any]:
    return np.dtype([(name, _ORDER[kind] + code) for name, code in element.properties])


def _vertices(element: _Element, kind: str, body: bytes, skip: int) -> dict[str, NDArray[Any]]:
    if element.has_list:
        raise ValueError("vertices with a list property are not supported")
    if kind == "ascii":
        width = len(element.properties)
        table = np.empty((0, width))
        if element.count:
            table = np.loadtxt(io.BytesIO(body), dtype=np.float64, ndmin=2, skiprows=skip, max_rows=element.count, comments=None)
        if table.shape != (element.count, width):
            raise ValueError(f"expected {element.count} vertices of {width} columns, got {table.shape[0]} of {table.shape[1]}: truncated")
        return {name: table[:, column].astype(code) for column, (name, code) in enumerate(element.properties)}
    record = _record(element, kind)
    if len(body) < skip + element.count * record.itemsize:
        raise ValueError(f"expected {element.count} vertices of {record.itemsize} bytes, got {len(body) - skip} bytes: truncated")
    rows = np.frombuffer(body, dtype=record, count=element.count, offset=skip)
    return {name: rows[name].astype(code) for name, code in element.properties}
