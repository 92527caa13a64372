"""Sizes of the tiles that a program of the masked implicit GEMM owns.

Chosen from what is known without asking the device: channels, dtype and number of kernel offsets (which stands for the neighbours: their number
would cost a wait). The sizes follow the model of the kernel's work, not a measurement: tiles of 32 rows for up to 64 channels, because a LiDAR
scan's padded work grows with the rows, and of 64 rows above, which a warp group of Hopper multiplies at once. ``benchmarks/ops_gpu.py --tune``
measures the alternatives on a GPU and prints this table; nothing is tuned while a network trains.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Pass = Literal["rows", "weight"]  # the output or input gradient, by rows; the weight gradient
Precision = Literal["half", "tf32", "ieee"]  # float16 and bfloat16; float32 rounded to TF32; float32 as it is
PRECISIONS: tuple[Precision, ...] = ("half", "tf32", "ieee")
WIDTHS = (16, 32, 64, 128)
FEW_OFFSETS = 8


@dataclass(frozen=True)
class Tile:
    """A program's block: rows x columns x depth of one product, its warps, and how many steps of loads are under way.

    For the weight gradient the rows are those summed over in a step, and columns x depth the block of the weight.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# (pass, precision, width of the output rounded up) -> tile; the depth is cut to the channels there are.
TABLE: dict[tuple[Pass, Precision, int], Tile] = {
    ("rows", "half", 16): Tile(32, 16, 32, 2, 5),
    ("rows", "half", 32): Tile(32, 32, 32, 2, 5),
    ("rows", "half", 64): Tile(32, 64, 64, 4, 5),
    ("rows", "half", 128): Tile(64, 128, 64, 4, 5),
    ("rows", "tf32", 16): Tile(32, 16, 32, 2, 5),
    ("rows", "tf32", 32): Tile(32, 32, 32, 2, 5),
    ("rows", "tf32", 64): Tile(32, 64, 32, 4, 5),
    ("rows", "tf32", 128): Tile(64, 128, 32, 8, 5),
    ("rows", "ieee", 16): Tile(32, 16, 16, 2, 2),
    ("rows", "ieee", 32): Tile(32, 32, 16, 4, 2),
    ("rows", "ieee", 64): Tile(32, 64, 16, 4, 2),
    ("rows", "ieee", 128): Tile(32, 128, 16, 8, 2),
    ("weight", "half", 16): Tile(64, 16, 16, 2, 5),
    ("weight", "half", 32): Tile(64, 32, 32, 4, 5),
    ("weight", "half", 64): Tile(64, 64, 64, 4, 5),
    ("weight", "half", 128): Tile(64, 128, 128, 8, 5),
    ("weight", "tf32", 16): Tile(32, 16, 16, 2, 5),
    ("weight", "tf32", 32): Tile(32, 32, 32, 4, 5),
    ("weight", "tf32", 64): Tile(32, 64, 64, 4, 5),
    ("weight", "tf32", 128): Tile(32, 128, 128, 8, 5),
    ("weight", "ieee", 16): Tile(16, 16, 16, 2, 2),
    ("weight", "ieee", 32): Tile(16, 32, 32, 4, 2),
    ("weight", "ieee", 64): Tile(16, 64, 64, 4, 2),
    ("weight", "ieee", 128): Tile(16, 64, 64, 4, 2),
}
_forced: list[Tile] = []


def choose(kind: Pass, precision: Precision, *, depth: int, width: int, volume: int) -> Tile:
    """Tile for ``width`` output channels from ``depth`` input channels over ``volume`` kernel offsets."""
    if _forced:
        return _forced[-1]
    size = _round_up(width, 128)
    tile = TABLE[kind, precision, size if kind == "rows" else max(size, _round_up(depth, 128))]
    rows = 2 * tile.rows if kind == "rows" and volume <= FEW_OFFSETS and precision != "ieee" else tile.rows  # little to pad
    columns = min(tile.columns, _round_up(width, tile.columns))
    warps = 8 if rows * columns >= 128 * 128 else tile.warps  # four would hold the sums in nearly all their registers
    return Tile(rows, columns, min(tile.depth, _round_up(depth, tile.depth)), warps, tile.stages)


def _round_up(size: int, most: int) -> int:
    """The power of two from 16 to ``most`` that holds ``size``, or ``most``."""
    return min(most, max(16, 1 << (size - 1).bit_length()))


@contextmanager
def use_tile(tile: Tile) -> Iterator[None]:
    """Run every pass inside the block with this tile, whatever the table says; for tuning and tests."""
    _forced.append(tile)
    try:
        yield
    finally:
        _forced.pop()


def candidates(kind: Pass, precision: Precision, width: int) -> list[Tile]:
    """Tiles worth timing for ``width`` channels in and out."""
    size = _round_up(width, 128)
    tiles: list[Tile] = []
    if kind == "rows":
        depths = [depth for depth in (16, 32, 64) if depth <= size and (precision != "ieee" or depth == 16)]
        sizes = [(rows, size, depth) for rows in (16, 32, 64, 128) for depth in depths]
    else:
        block = min(size, 64) if precision == "ieee" else size  # float32 products go through registers
        sizes = [(rows, block, block) for rows in (16, 32, 64, 128)]
    for rows, columns, depth in sizes:
        tiles += [Tile(rows, columns, depth, warps, stages) for warps in (2, 4, 8) for stages in ((2,) if precision == "ieee" else (2, 3, 5, 7))]
    return tiles
