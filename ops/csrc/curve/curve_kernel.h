#pragma once

#include "curve/curve.h"
#include "geometry/simd.h"

namespace {

using suite3d::CURVE_BLOCK;

// Two zero bits after each of the lowest 21 bits.
SUITE3D_INLINE uint64_t spread_by_two(uint64_t v) {
  v = (v | v << 32) & 0x1f00000000ffffull;
  v = (v | v << 16) & 0x1f0000ff0000ffull;
  v = (v | v << 8) & 0x100f00f00f00f00full;
  v = (v | v << 4) & 0x10c30c30c30c30c3ull;
  return (v | v << 2) & 0x1249249249249249ull;
}

// Skilling 2004, "Programming the Hilbert curve": from the top level down undo the turn of the sub-cube, then read the three axes as one
// Gray code. Every step is a loop over the block without branches, for the vectoriser.
SUITE3D_INLINE void turn_to_hilbert(uint32_t (&cell)[3][CURVE_BLOCK], int depth) {
  for (int level = depth - 1; level > 0; --level) {
    const uint32_t below = (1u << level) - 1;
    for (int i = 0; i < CURVE_BLOCK; ++i) cell[0][i] ^= below & (0u - (cell[0][i] >> level & 1));
    for (int axis = 1; axis < 3; ++axis) {
      for (int i = 0; i < CURVE_BLOCK; ++i) {
        const uint32_t set = 0u - (cell[axis][i] >> level & 1), exchanged = (cell[0][i] ^ cell[axis][i]) & below & ~set;
        cell[0][i] ^= exchanged | (below & set);
        cell[axis][i] ^= exchanged;
      }
    }
  }
  for (int i = 0; i < CURVE_BLOCK; ++i) {
    const uint32_t y = cell[1][i] ^ cell[0][i], z = cell[2][i] ^ y;
    uint32_t parity = z >> 1;  // becomes, bit by bit, the parity of the bits of z above it
    parity ^= parity >> 1, parity ^= parity >> 2, parity ^= parity >> 4, parity ^= parity >> 8, parity ^= parity >> 16;
    cell[0][i] ^= parity, cell[1][i] = y ^ parity, cell[2][i] = z ^ parity;
  }
}

}  // namespace

namespace suite3d {
namespace SUITE3D_LEVEL {

void curve_block(uint32_t (&cell)[3][CURVE_BLOCK], int depth, bool hilbert, uint64_t (&code)[CURVE_BLOCK]) {
  if (hilbert) turn_to_hilbert(cell, depth);
  for (int i = 0; i < CURVE_BLOCK; ++i) code[i] = spread_by_two(cell[0][i]) << 2 | spread_by_two(cell[1][i]) << 1 | spread_by_two(cell[2][i]);
}

}  // namespace SUITE3D_LEVEL
}  // namespace suite3d
