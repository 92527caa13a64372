"""Triton kernels of the masked implicit GEMM (the algorithm is told in the package's docstring). Needs triton: import it late.

Shapes: ``table`` (K, V_out) int32 input row of each output under each offset, -1 for none. ``position`` is a row's place in the order of the
plan. ``UPCAST`` multiplies in float32, for the interpreter, which does not know bfloat16 products. Row counts are not specialised: they differ
with every scan, and each new kind of number would compile again. (In the interpreter a comparison of scalars cannot be a mask: they are
multiplied into a bound instead.)
"""

from __future__ import annotations

import triton
import triton.language as tl

ROWS_PER_MASK = tl.constexpr(16)  # rows of the order that share one stored mask; tiles are multiples of it
FEW_NEIGHBOURS = tl.constexpr(8)  # offsets are halved where the outputs have fewer on average


@triton.jit
def gray_rank(mask: tl.tensor) -> tl.tensor:
    """Place of a non-negative int64 in the reflected Gray sequence."""
    mask ^= mask >> 1
    mask ^= mask >> 2
    mask ^= mask >> 4
    mask ^= mask >> 8
    mask ^= mask >> 16
    mask ^= mask >> 32
    return mask


@triton.jit
def bits_set(mask: tl.tensor) -> tl.tensor:
    """Number of ones of a non-negative int64 scalar, as int32."""
    mask = (mask & 0x5555555555555555) + ((mask >> 1) & 0x5555555555555555)
    mask = (mask & 0x3333333333333333) + ((mask >> 2) & 0x3333333333333333)
    mask = (mask & 0x0F0F0F0F0F0F0F0F) + ((mask >> 4) & 0x0F0F0F0F0F0F0F0F)
    mask += mask >> 8
    mask += mask >> 16
    mask += mask >> 32
    return (mask & 127).to(tl.int32)


@triton.jit(do_not_specialize=["outputs"])
def row_mask_kernel(table: tl.tensor, masks: tl.tensor, pairs: tl.tensor, outputs: tl.tensor, VOLUME: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """``masks[o]``: the offsets under which output o has a neighbour, as bits; those under offset k are added to ``pairs[k]``."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < outputs
    mask = tl.zeros((BLOCK,), tl.int64)
    source = table + row
    for k in range(VOLUME):
        present = tl.load(source, mask=inside, other=-1) >= 0
        mask |= present.to(tl.int64) << k
        tl.atomic_add(pairs + k, tl.sum(present.to(tl.int32), axis=0))  # integers: any order gives the same sum
        source += outputs
    tl.store(masks + row, mask, mask=inside)


@triton.jit(do_not_specialize=["outputs"])
def sort_key_kernel(
    masks: tl.tensor,
    pairs: tl.tensor,
    low_keys: tl.tensor,
    high_keys: tl.tensor,
    split: tl.tensor,
    outputs: tl.tensor,
    CHOICE: tl.constexpr,
    VOLUME: tl.constexpr,
    CUT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Gray ranks by which rows are sorted: of the whole mask, or of its two halves where ``split`` (written here, so that nobody waits for it).

    The rarer an offset the higher its bit: rows that lack it stay together, and the common ones, which most tiles need anyway, change fast.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < outputs
    mask = tl.load(masks + row, mask=inside, other=0)
    offset = tl.arange(0, 64)
    counts = tl.load(pairs + offset, mask=offset < VOLUME, other=-1)
    if CHOICE == 0:
        halve = (tl.sum(tl.maximum(counts, 0).to(tl.int64), axis=0) // FEW_NEIGHBOURS < outputs).to(tl.int32)
    else:
        halve = CHOICE - 1
    low = tl.zeros((BLOCK,), tl.int64)
    high = tl.zeros((BLOCK,), tl.int64)
    for k in range(VOLUME):
        count = tl.load(pairs + k)
        upper = (k >= CUT) & (halve > 0)
        together = ((offset >= CUT) == (k >= CUT)) | (halve == 0)
        place = tl.sum((together & ((counts > count) | ((counts == count) & (offset < k)))).to(tl.int64), axis=0)  # the commonest lowest
        bit = ((mask >> k) & 1) << place
        low |= tl.where(upper, 0, bit)
        high |= tl.where(upper, bit, 0)
    tl.store(low_keys + row, gray_rank(low), mask=inside)
    if CHOICE != 1:
        tl.store(high_keys + row, gray_rank(high), mask=inside)
    tl.store(split, halve)


@triton.jit(do_not_specialize=["outputs", "tiles"])
def arrange_kernel(
    table: tl.tensor,
    low_order: tl.tensor,
    high_order: tl.tensor,
    split: tl.tensor,
    order: tl.tensor,
    masks: tl.tensor,
    arranged: tl.tensor,
    outputs: tl.tensor,
    tiles: tl.tensor,
    VOLUME: tl.constexpr,
    GROUPS: tl.constexpr,
    CUT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The table with its columns in the order of the plan, and for every 16 of them the offsets that any of them has."""
    TILES: tl.constexpr = BLOCK // ROWS_PER_MASK
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = position < outputs
    low = tl.load(low_order + position, mask=inside, other=0)
    high = low
    tl.store(order + position, low, mask=inside)
    halve = tl.load(split) > 0
    if GROUPS == 2:
        high = tl.load(high_order + position, mask=inside, other=0)
        tl.store(order + outputs + position, high, mask=inside)
    low_mask = tl.zeros((TILES,), tl.int64)
    high_mask = tl.zeros((TILES,), tl.int64)
    source = table
    target = arranged + position
    for k in range(VOLUME):
        upper = halve & (k >= CUT)
        row = tl.where(upper, high, low)
        found = tl.load(source + row, mask=inside, other=-1)
        tl.store(target, found, mask=inside)
        present = tl.max(tl.reshape((found >= 0).to(tl.int32), (TILES, ROWS_PER_MASK)), axis=1).to(tl.int64) << k
        low_mask |= tl.where(upper, 0, present)
        high_mask |= tl.where(upper, present, 0)
        source += outputs
        target += outputs
    tile = tl.program_id(0).to(tl.int64) * TILES + tl.arange(0, TILES)
    tl.store(masks + tile, low_mask, mask=tile < tiles)
    if GROUPS == 2:
        tl.store(masks + tiles + tile, high_mask, mask=tile < tiles)


@triton.jit(do_not_specialize=["outputs", "tiles"])
def convolve_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    arranged: tl.tensor,
    order: tl.tensor,
    masks: tl.tensor,
    split: tl.tensor,
    partial: tl.tensor,
    out: tl.tensor,
    outputs: tl.tensor,
    tiles: tl.tensor,
    depth: tl.tensor,
    width: tl.tensor,
    offset_stride: tl.tensor,
    depth_stride: tl.tensor,
    width_stride: tl.tensor,
    VOLUME: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    REVERSED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """``out[order[p], n] = bias[n] + sum over the tile's offsets k and channels d of x[arranged[k, p], d] weight[k, d, n]`` in float32.

    One loop over (offset present, slice of channels), so that the gathers of a later step are under way during the product of this one.
    ``GROUP`` of ``GROUPS``: where the offsets are halved the first pass leaves its sums in ``partial`` and the second goes on from them.
    """
    column_tiles = tl.cdiv(width, COLUMNS)
    program = tl.program_id(0)
    tile = (program // column_tiles).to(tl.int64)  # neighbours in the grid gather the same rows
    position = tile * ROWS + tl.arange(0, ROWS)
    column = (program % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)
    inside = position < outputs
    mask = tile * 0
    for i in tl.static_range(ROWS // ROWS_PER_MASK):
        part = tile * (ROWS // ROWS_PER_MASK) + i
        mask |= tl.load(masks + GROUP * tiles + part, mask=part < tiles, other=0)
    row = tl.load(order + GROUP * outputs + position, mask=inside, other=0).to(tl.int64)
    target = row[:, None] * width + column[None, :]
    named = column < width
    halved = (position < outputs * tl.load(split))[:, None] & named[None, :]  # all of the tile or nothing
    if GROUP == 1:
        total = tl.load(partial + target, mask=halved, other=0.0)
    else:
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
    slices = tl.cdiv(depth, DEPTH)
    steps = bits_set(mask) * slices
    piece = 0
    for _ in range(steps):
        lowest = (mask & -mask).to(tl.float32)  # a power of two, which float32 holds exactly: its exponent is the offset's index
        k = ((lowest.to(tl.int32, bitcast=True) >> 23) - 127).to(tl.int64)
        channel = piece * DEPTH + tl.arange(0, DEPTH)
        source = tl.load(arranged + k * outputs + position, mask=inside, other=-1)
        matrix = weight + ((VOLUME - 1 - k) if REVERSED else k) * offset_stride
        rows = x + source.to(tl.int64)[:, None] * depth + channel[None, :]
        columns = matrix + channel[:, None] * depth_stride + column[None, :] * width_stride
        if EVEN:
            a = tl.load(rows, mask=(source >= 0)[:, None], other=0.0)
            b = tl.load(columns)
        else:
            a = tl.load(rows, mask=(source >= 0)[:, None] & (channel < depth)[None, :], other=0.0)
            b = tl.load(columns, mask=(channel < depth)[:, None] & (column < width)[None, :], other=0.0)
        if UPCAST:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        piece += 1
        mask = tl.where(piece == slices, mask & (mask - 1), mask)  # on to the next offset present
        piece = tl.where(piece == slices, 0, piece)
    if HAS_BIAS:
        total_and_bias = total + tl.load(bias + column, mask=named, other=0.0).to(tl.float32)[None, :]
    else:
        total_and_bias = total
    finished = total_and_bias.to(out.dtype.element_ty)
    if GROUPS == 1:
        tl.store(out + target, finished, mask=inside[:, None] & named[None, :])
    elif GROUP == 0:
        tl.store(partial + target, total, mask=halved)
        tl.store(out + target, finished, mask=(position < outputs - outputs * tl.load(split))[:, None] & named[None, :])
    else:
        tl.store(out + target, finished, mask=halved)


@triton.jit(do_not_specialize=["outputs", "blocks"])
def count_pairs_kernel(table: tl.tensor, counts: tl.tensor, outputs: tl.tensor, blocks: tl.tensor, BLOCK: tl.constexpr) -> None:
    """``counts[k, b]``: outputs of block b with a neighbour under offset k."""
    k = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    present = tl.load(table + k * outputs + row, mask=row < outputs, other=-1) >= 0
    tl.store(counts + k * blocks + tl.program_id(0), tl.sum(present.to(tl.int32), axis=0))


@triton.jit(do_not_specialize=["outputs", "blocks"])
def list_pairs_kernel(
    table: tl.tensor,
    counts: tl.tensor,
    ends: tl.tensor,
    sources: tl.tensor,
    targets: tl.tensor,
    outputs: tl.tensor,
    blocks: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Input and output rows of each offset's pairs, side by side in the order of the outputs; ``ends`` is the running sum of ``counts``."""
    k = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(table + k * outputs + row, mask=row < outputs, other=-1)
    present = (source >= 0).to(tl.int32)
    block = k * blocks + tl.program_id(0)
    place = k * outputs + tl.load(ends + block) - tl.load(counts + block) + tl.cumsum(present, axis=0) - present
    tl.store(sources + place, source, mask=present > 0)
    tl.store(targets + place, row.to(tl.int32), mask=present > 0)


@triton.jit(do_not_specialize=["listed", "per_piece"])
def weight_grad_kernel(
    x: tl.tensor,
    grad: tl.tensor,
    sources: tl.tensor,
    targets: tl.tensor,
    counts: tl.tensor,
    partial: tl.tensor,
    listed: tl.tensor,
    per_piece: tl.tensor,
    depth: tl.tensor,
    width: tl.tensor,
    VOLUME: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """``partial[piece, n, k, d]`` = sum over that piece of offset k's pairs of ``grad[target, n] x[source, d]``, in float32.

    Pieces without a pair are left as they are, but for the first, which is zero then.
    """
    depth_tiles = tl.cdiv(depth, DEPTH)
    column = (tl.program_id(0) // depth_tiles) * COLUMNS + tl.arange(0, COLUMNS)
    channel = (tl.program_id(0) % depth_tiles) * DEPTH + tl.arange(0, DEPTH)
    k = tl.program_id(1).to(tl.int64)
    piece = tl.program_id(2).to(tl.int64)
    count = tl.load(counts + k).to(tl.int64)
    begin = piece * per_piece
    end = tl.minimum(begin + per_piece, count)
    total = tl.zeros((COLUMNS, DEPTH), tl.float32)
    for first in range(begin, end, ROWS):
        place = first + tl.arange(0, ROWS)
        listed_here = place < end
        source = tl.load(sources + k * listed + place, mask=listed_here, other=0).to(tl.int64)
        target = tl.load(targets + k * listed + place, mask=listed_here, other=0).to(tl.int64)
        a = tl.load(grad + target[None, :] * width + column[:, None], mask=listed_here[None, :] & (column < width)[:, None], other=0.0)
        b = tl.load(x + source[:, None] * depth + channel[None, :], mask=listed_here[:, None] & (channel < depth)[None, :], other=0.0)
        if UPCAST:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    place = ((piece * width + column[:, None]) * VOLUME + k) * depth + channel[None, :]
    written = tl.where((begin < count) | (piece == 0), width, 0)
    tl.store(partial + place, total.to(partial.dtype.element_ty), mask=(column < written)[:, None] & (channel < depth)[None, :])


@triton.jit(do_not_specialize=["per_piece"])
def sum_pieces_kernel(
    partial: tl.tensor,
    counts: tl.tensor,
    out: tl.tensor,
    per_piece: tl.tensor,
    depth: tl.tensor,
    width: tl.tensor,
    VOLUME: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``out[n, k, d]`` = the pieces of offset k in order, those that have pairs; cast to the dtype of ``out`` at the end."""
    k = tl.program_id(1).to(tl.int64)
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = number < width * depth
    place = (number // depth * VOLUME + k) * depth + number % depth
    source = partial + place
    total = tl.load(source, mask=inside, other=0.0)
    for _ in range(1, tl.cdiv(tl.load(counts + k), per_piece)):
        source += width * VOLUME * depth
        total += tl.load(source, mask=inside, other=0.0)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)
