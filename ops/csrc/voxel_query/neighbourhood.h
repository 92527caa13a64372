// The voxels that a query may reach, for CPU and CUDA. Axes are x, y, z.
#pragma once

#include "common.h"

namespace suite3d {

struct Neighbourhood {
  float start[3], size[3];
  int64_t cells[3], reach[3], distance;  // in cells: along each axis, and in sum
  float radius2;

  // The cell of a query; false where no cell of the grid is in reach, or for NaN.
  SUITE3D_HOST_DEVICE bool cell_of(const float* query, int64_t (&cell)[3]) const {
    for (int a = 0; a < 3; ++a) {
      const float place = (query[a] - start[a]) / size[a];
      if (!(place >= -static_cast<float>(reach[a]) - 1 && place < static_cast<float>(cells[a] + reach[a]))) return false;
      const int64_t truncated = static_cast<int64_t>(place);
      cell[a] = truncated - (static_cast<float>(truncated) > place);
    }
    return true;
  }

  // First and last cell of an axis that is at most `limit` cells away.
  SUITE3D_HOST_DEVICE int64_t first(int a, int64_t cell, int64_t limit) const {
    const int64_t low = cell - (limit < reach[a] ? limit : reach[a]);
    return low < 0 ? 0 : low;
  }
  SUITE3D_HOST_DEVICE int64_t last(int a, int64_t cell, int64_t limit) const {
    const int64_t high = cell + (limit < reach[a] ? limit : reach[a]);
    return high >= cells[a] ? cells[a] - 1 : high;
  }

  SUITE3D_HOST_DEVICE static int64_t gap(int64_t a, int64_t b) { return a < b ? b - a : a - b; }
};

// start, size, cells, reach by x, y, z.
inline Neighbourhood make_neighbourhood(const std::vector<double>& start, const std::vector<double>& size, const std::vector<int64_t>& cells,
                                        const std::vector<int64_t>& reach, int64_t distance, double radius) {
  SUITE3D_CHECK(start.size() == 3 && size.size() == 3 && cells.size() == 3 && reach.size() == 3, "voxel_query: three values an axis are needed");
  Neighbourhood result;
  for (int a = 0; a < 3; ++a) {
    result.start[a] = static_cast<float>(start[a]), result.size[a] = static_cast<float>(size[a]);
    result.cells[a] = cells[a], result.reach[a] = reach[a];
  }
  result.distance = distance;
  const float rounded = static_cast<float>(radius);
  result.radius2 = rounded * rounded;
  return result;
}

}  // namespace suite3d
