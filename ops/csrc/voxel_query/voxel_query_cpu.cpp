// Voxel query: the voxels are sorted, so those of one line along x are one run, and the lines of one layer follow one another.
#include "voxel_query/neighbourhood.h"

namespace suite3d {
namespace {

// Runs of voxels that share batch, z and y.
struct Lines {
  std::vector<int64_t> key, start;  // number of each line, increasing; its first voxel, and one more entry at the end

  // Voxels outside the grid, unsorted or repeated are an error.
  Lines(const int32_t* coords, int64_t count, int64_t batch_size, const int64_t (&cells)[3]) {
    int64_t x = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t* c = coords + 4 * i;
      bool good = c[0] >= 0 && c[0] < batch_size && c[1] >= 0 && c[1] < cells[2] && c[2] >= 0 && c[2] < cells[1] && c[3] >= 0 && c[3] < cells[0];
      const int64_t line = (c[0] * cells[2] + c[1]) * cells[1] + c[2];
      if (key.empty() || line != key.back()) {
        good &= key.empty() || line > key.back();
        key.push_back(line);
        start.push_back(i);
      } else {
        good &= c[3] > x;
      }
      x = c[3];
      SUITE3D_CHECK(good, "voxel_query: voxels are outside the grid, unsorted or repeated");
    }
    start.push_back(count);
  }
};

struct Search {
  const Neighbourhood& near;
  const Lines& lines;
  const int32_t* coords;
  int64_t k;

  bool inside(const float* query, const int32_t* c) const {
    float d2 = 0;
    for (int a = 0; a < 3; ++a) {
      const float centre = (static_cast<float>(c[3 - a]) + 0.5f) * near.size[a] + near.start[a], gap = query[a] - centre;
      d2 += gap * gap;
    }
    return d2 < near.radius2;
  }

  // Write the rows of one query; returns their number.
  int64_t find(const float* query, int64_t batch, int64_t* out) const {
    int64_t cell[3], used = 0;
    if (!near.cell_of(query, cell)) return 0;
    for (int64_t z = near.first(2, cell[2], near.distance); z <= near.last(2, cell[2], near.distance); ++z) {
      const int64_t left = near.distance - Neighbourhood::gap(z, cell[2]), layer = (batch * near.cells[2] + z) * near.cells[1];
      const int64_t low = near.first(1, cell[1], left), high = near.last(1, cell[1], left);
      if (low > high) continue;
      auto at = std::lower_bound(lines.key.begin(), lines.key.end(), layer + low);
      for (; at != lines.key.end() && *at <= layer + high; ++at) {
        const int64_t rest = left - Neighbourhood::gap(*at - layer, cell[1]), line = at - lines.key.begin();
        const int64_t first = near.first(0, cell[0], rest), last = near.last(0, cell[0], rest);
        int64_t row = lines.start[line], count = lines.start[line + 1] - row;
        while (count > 0) {  // the first voxel of the line that is not before `first`
          const int64_t half = count / 2;
          const bool before = coords[4 * (row + half) + 3] < first;
          row = before ? row + half + 1 : row;
          count = before ? count - half - 1 : half;
        }
        for (; row < lines.start[line + 1] && coords[4 * row + 3] <= last; ++row) {
          if (!inside(query, coords + 4 * row)) continue;
          out[used++] = row;
          if (used == k) return used;
        }
      }
    }
    return used;
  }
};

std::tuple<Tensor, Tensor> voxel_query(const Tensor& query_any, const Tensor& coords_any, const Tensor& offsets_any, std::vector<double> start,
                                       std::vector<double> size, std::vector<int64_t> cells, std::vector<int64_t> reach, int64_t distance,
                                       double radius, int64_t k) {
  const Tensor query = as_contiguous(query_any), coords = as_contiguous(coords_any), offsets = as_contiguous(offsets_any);
  SUITE3D_CHECK(k >= 1, "voxel_query: k must be at least 1");
  const int64_t queries = query.size(0), clouds = offsets.size(0) - 1;
  const Neighbourhood near = make_neighbourhood(start, size, cells, reach, distance, radius);
  const Lines lines(data<int32_t>(coords), coords.size(0), clouds, near.cells);
  const Search search{near, lines, data<int32_t>(coords), k};
  const Tensor index = empty({queries, k}, ScalarType::Long, query), count = empty({queries}, ScalarType::Long, query);
  int64_t *rows = mutable_data<int64_t>(index), *counts = mutable_data<int64_t>(count);
  const float* points = data<float>(query);
  const int64_t* ends = data<int64_t>(offsets);
  parallel_for(queries, 64, [&](int64_t begin, int64_t end) {
    int64_t cloud = std::upper_bound(ends, ends + clouds + 1, begin) - ends - 1;
    for (int64_t q = begin; q < end; ++q) {
      while (cloud + 1 < clouds && ends[cloud + 1] <= q) ++cloud;
      counts[q] = search.find(points + 3 * q, cloud, rows + q * k);
      std::fill(rows + q * k + counts[q], rows + (q + 1) * k, int64_t{-1});
    }
  });
  return {index, count};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) { m.impl("voxel_query", TORCH_BOX(&suite3d::voxel_query)); }
