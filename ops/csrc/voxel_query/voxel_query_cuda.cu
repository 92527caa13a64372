// Voxel query, one thread a query: a search in the sorted cell numbers for each line along x that is in reach.
#include "geometry/device.cuh"
#include "voxel_query/neighbourhood.h"

namespace suite3d {
namespace {

__device__ inline bool inside(const Neighbourhood& near, const float* query, const int32_t* c) {
  float gap[3];
  for (int a = 0; a < 3; ++a)
    gap[a] = __fsub_rn(query[a], __fadd_rn(__fmul_rn(__fadd_rn(static_cast<float>(c[3 - a]), 0.5f), near.size[a]), near.start[a]));
  return __fadd_rn(product_sum(gap[0], gap[0], gap[1], gap[1]), __fmul_rn(gap[2], gap[2])) < near.radius2;
}

__device__ inline int64_t search(const Neighbourhood& near, const int64_t* keys, const int32_t* coords, int64_t voxels, const float* query,
                                 int64_t batch, int64_t k, int64_t* out) {
  int64_t cell[3], used = 0;
  if (!near.cell_of(query, cell)) return 0;
  for (int64_t z = near.first(2, cell[2], near.distance); z <= near.last(2, cell[2], near.distance); ++z) {
    const int64_t left = near.distance - Neighbourhood::gap(z, cell[2]);
    for (int64_t y = near.first(1, cell[1], left); y <= near.last(1, cell[1], left); ++y) {
      const int64_t rest = left - Neighbourhood::gap(y, cell[1]), line = ((batch * near.cells[2] + z) * near.cells[1] + y) * near.cells[0];
      const int64_t first = near.first(0, cell[0], rest), last = near.last(0, cell[0], rest);
      if (first > last) continue;
      for (int64_t row = lower_bound(keys, voxels, line + first); row < voxels && keys[row] <= line + last; ++row) {
        if (!inside(near, query, coords + 4 * row)) continue;
        out[used++] = row;
        if (used == k) return used;
      }
    }
  }
  return used;
}

std::tuple<Tensor, Tensor> voxel_query(Tensor query, Tensor coords, Tensor offsets, std::vector<double> start, std::vector<double> size,
                                       std::vector<int64_t> cells, std::vector<int64_t> reach, int64_t distance, double radius, int64_t k) {
  query = as_contiguous(query), coords = as_contiguous(coords), offsets = as_contiguous(offsets);
  SUITE3D_CHECK(k >= 1, "voxel_query: k must be at least 1");
  const OnDevice device(query);
  const cudaStream_t stream = device.stream();
  const int64_t queries = query.size(0), voxels = coords.size(0), clouds = offsets.size(0) - 1;
  const Neighbourhood near = make_neighbourhood(start, size, cells, reach, distance, radius);
  const int32_t* coord = data<int32_t>(coords);
  const Buffer<int64_t> keys(voxels, query);
  for_each(voxels, stream, [=, key = keys.get()] __device__(int64_t i) {
    const int32_t* c = coord + 4 * i;
    key[i] = ((c[0] * near.cells[2] + c[1]) * near.cells[1] + c[2]) * near.cells[0] + c[3];
  });
  const Tensor index = empty({queries, k}, ScalarType::Long, query), count = empty({queries}, ScalarType::Long, query);
  for_each(queries, stream,
           [=, key = keys.get(), points = data<float>(query), ends = data<int64_t>(offsets), rows = mutable_data<int64_t>(index),
            counts = mutable_data<int64_t>(count)] __device__(int64_t q) {
             int64_t used = search(near, key, coord, voxels, points + 3 * q, cloud_of(ends, clouds, q), k, rows + q * k);
             counts[q] = used;
             for (; used < k; ++used) rows[q * k + used] = -1;
           });
  return {index, count};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) { m.impl("voxel_query", TORCH_BOX(&suite3d::voxel_query)); }
