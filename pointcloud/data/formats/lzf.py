"""LZF decompression (Marc Lehmann's LibLZF stream format), as used by PCD ``binary_compressed``."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def lzf_decompress(data: bytes, size: int) -> NDArray[np.uint8]:
    """``size`` bytes decoded from an LZF stream.

    Stream: a control byte below 32 is followed by control + 1 literal bytes; otherwise its top three bits are the length - 2 of a back
    reference (7 = one more length byte follows) and its low five bits the high part of the distance - 1, whose low byte comes last.

    Raises:
        ValueError: the stream ends early, refers to before its start, or does not give exactly ``size`` bytes.
    """
    out = np.empty(size, dtype=np.uint8)
    produced = _decode(np.frombuffer(data, dtype=np.uint8), out)
    if produced != size:
        reason = "is corrupt" if produced < 0 else f"gives {produced} bytes"
        raise ValueError(f"compressed block {reason}, expected {size} bytes")
    return out


@numba.njit(cache=True, nogil=True)
def _decode(source: NDArray[np.uint8], out: NDArray[np.uint8]) -> int:
    read = write = 0
    while read < len(source):
        control = int(source[read])
        read += 1
        if control < 32:
            count = control + 1
            if read + count > len(source) or write + count > len(out):
                return -1
            for k in range(count):
                out[write + k] = source[read + k]
            read += count
            write += count
            continue
        count = (control >> 5) + 2
        if count == 9:
            if read >= len(source):
                return -1
            count += int(source[read])
            read += 1
        if read >= len(source):
            return -1
        start = write - ((control & 31) << 8) - int(source[read]) - 1
        read += 1
        if start < 0 or write + count > len(out):
            return -1
        for k in range(count):  # byte by byte: source and target may overlap
            out[write + k] = out[start + k]
        write += count
    return write
