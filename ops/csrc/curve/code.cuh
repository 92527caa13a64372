// Positions of cells along space-filling curves, on the device.
#pragma once

#include "geometry/device.cuh"

namespace suite3d {

__device__ inline uint64_t spread_by_two(uint64_t v) {
  v = (v | v << 32) & 0x1f00000000ffffull;
  v = (v | v << 16) & 0x1f0000ff0000ffull;
  v = (v | v << 8) & 0x100f00f00f00f00full;
  v = (v | v << 4) & 0x10c30c30c30c30c3ull;
  return (v | v << 2) & 0x1249249249249249ull;
}

// As in curve_kernel.h, for one cell. Bits of the coordinates above `depth` are dropped.
template <class Cell>
__device__ inline uint64_t code_of(const Cell* row, int depth, bool hilbert, bool swap) {
  const uint32_t kept = (1u << depth) - 1;
  uint32_t cell[3] = {static_cast<uint32_t>(row[swap ? 1 : 0]) & kept, static_cast<uint32_t>(row[swap ? 0 : 1]) & kept,
                      static_cast<uint32_t>(row[2]) & kept};
  if (hilbert) {
    for (int level = depth - 1; level > 0; --level) {
      const uint32_t below = (1u << level) - 1;
      for (int axis = 0; axis < 3; ++axis) {
        const bool set = cell[axis] >> level & 1;
        const uint32_t exchanged = (cell[0] ^ cell[axis]) & below;
        cell[0] ^= set ? below : exchanged;
        if (axis > 0 && !set) cell[axis] ^= exchanged;
      }
    }
    cell[1] ^= cell[0], cell[2] ^= cell[1];
    uint32_t parity = cell[2] >> 1;
    parity ^= parity >> 1, parity ^= parity >> 2, parity ^= parity >> 4, parity ^= parity >> 8, parity ^= parity >> 16;
    cell[0] ^= parity, cell[1] ^= parity, cell[2] ^= parity;
  }
  return spread_by_two(cell[0]) << 2 | spread_by_two(cell[1]) << 1 | spread_by_two(cell[2]);
}

}  // namespace suite3d
