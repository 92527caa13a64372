#pragma once

#include "geometry/simd.h"
#include "voxelize/cells.h"

namespace suite3d {
namespace SUITE3D_LEVEL {

// Loops over the block without branches, for the vectoriser. True division: a multiplication by the reciprocal puts some points elsewhere.
void cells_block(const float* p, const CellGrid& grid, uint64_t (&cell)[CELL_BLOCK], uint32_t (&inside)[CELL_BLOCK]) {
  for (int axis = 0; axis < 3; ++axis) {
    const float start = grid.start[axis], size = grid.size[axis], limit = grid.limit[axis];
    const int shift = grid.shift[axis];
    float value[CELL_BLOCK];
    uint32_t along[CELL_BLOCK];
    for (int i = 0; i < CELL_BLOCK; ++i) value[i] = p[3 * i + axis];
    for (int i = 0; i < CELL_BLOCK; ++i) {
      const float place = (value[i] - start) / size;
      const uint32_t within = (place >= 0 ? 1u : 0u) & (place < limit ? 1u : 0u);
      inside[i] = axis == 0 ? within : inside[i] & within;
      along[i] = static_cast<uint32_t>(static_cast<int32_t>(within ? place : 0.0f));
    }
    for (int i = 0; i < CELL_BLOCK; ++i) cell[i] = (axis == 0 ? 0 : cell[i]) | uint64_t{along[i]} << shift;
  }
}

}  // namespace SUITE3D_LEVEL
}  // namespace suite3d
