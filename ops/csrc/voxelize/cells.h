// Cells of points, a block at a time; one copy for each instruction set.
#pragma once

#include <cstdint>

namespace suite3d {

constexpr int CELL_BLOCK = 64;

struct CellGrid {
  float start[3], size[3], limit[3];  // limit: cells along the axis
  int shift[3];                       // where the cell along an axis stands in the number
};

// cell[i]: number of the cell of point p[3 * i], without its scan. inside[i]: 0 for a point out of range or NaN, whose cell means nothing.
using CellKernel = void(const float* p, const CellGrid& grid, uint64_t (&cell)[CELL_BLOCK], uint32_t (&inside)[CELL_BLOCK]);

namespace any { CellKernel cells_block; }
namespace avx2 { CellKernel cells_block; }
namespace avx512 { CellKernel cells_block; }

}  // namespace suite3d
