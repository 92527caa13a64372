"""Is a container file all there? Its outermost boxes say how long it should be."""

from __future__ import annotations

from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ISO_FIRST = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})


def bytes_missing(file: BinaryIO) -> str:
    """What is missing of an MP4/MOV (ISO 14496-12, 4.2) or Matroska/WebM (RFC 8794) file, in words; empty when nothing is, or other format.

    AVI is left out: its length fields are too often wrong in files that are whole.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if head[4:8] in _ISO_FIRST:
        return _iso(file, size)
    return _matroska(file, size) if head[:4] == _EBML else ""


def _iso(file: BinaryIO, size: int) -> str:
    """Walks the outermost boxes."""
    place, kinds = 0, set()
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # to the end of the file
            kinds.add(kind)
            break
        if length < 8 or not all(32 <= byte < 127 or byte == 0xA9 for byte in kind):
            break  # padding or rubbish after the last box: not ours to judge
        kinds.add(kind)
        place += length
        if place > size and kind in (b"mdat", b"moov", b"moof"):
            return f"its '{kind.decode('latin-1')}' box ends at byte {place}, the file at {size}"
    return "" if b"moov" in kinds else "its index (moov box) is not there"


def _matroska(file: BinaryIO, size: int) -> str:
    """The segment's length, where it is known."""
    file.seek(4)
    header = _variable(file)
    if header is None:
        return ""
    file.seek(file.tell() + header)
    if file.read(4) != _SEGMENT:
        return ""
    length = _variable(file)
    end = file.tell() + (length or 0)
    return f"its segment ends at byte {end}, the file at {size}" if length is not None and end > size else ""


def _variable(file: BinaryIO) -> int | None:
    """A variable-length integer; None when "unknown" or not one."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    count = 8 - first[0].bit_length()
    rest = file.read(count)
    value = int.from_bytes(bytes([first[0] & (0x7F >> count)]) + rest, "big")
    return None if value == (1 << (7 * (count + 1))) - 1 else value
