// The voxel grid and its cell numbers, for CPU and CUDA.
#pragma once

#include "common.h"

namespace suite3d {

// Cell numbers are bit fields batch | z | y | x, so they sort lexicographically and unpack with shifts.
struct Grid {
  float start[3], size[3];
  int64_t cells[3];
  int shift_y, shift_z, shift_batch, bits;

  SUITE3D_HOST_DEVICE void write(uint64_t cell, int32_t* out) const {
    out[0] = static_cast<int32_t>(cell >> shift_batch);
    out[1] = static_cast<int32_t>((cell >> shift_z) & ((uint64_t{1} << (shift_batch - shift_z)) - 1));
    out[2] = static_cast<int32_t>((cell >> shift_y) & ((uint64_t{1} << (shift_z - shift_y)) - 1));
    out[3] = static_cast<int32_t>(cell & ((uint64_t{1} << shift_y) - 1));
  }
};

inline Grid make_grid(const std::vector<double>& start, const std::vector<double>& size, const std::vector<int64_t>& cells, int64_t batch_size) {
  SUITE3D_CHECK(start.size() == 3 && size.size() == 3 && cells.size() == 3, "voxelize: start, size and cells need 3 values each");
  Grid grid;
  for (int axis = 0; axis < 3; ++axis) {
    grid.start[axis] = static_cast<float>(start[axis]);
    grid.size[axis] = static_cast<float>(size[axis]);
    grid.cells[axis] = cells[axis];
  }
  grid.shift_y = bit_width(cells[0]);
  grid.shift_z = grid.shift_y + bit_width(cells[1]);
  grid.shift_batch = grid.shift_z + bit_width(cells[2]);
  grid.bits = grid.shift_batch + bit_width(batch_size);
  SUITE3D_CHECK(grid.bits <= 61, "voxelize: the grid needs keys of ", grid.bits, " bits, more than 61");  // their sums and bounds are int64
  return grid;
}

}  // namespace suite3d
