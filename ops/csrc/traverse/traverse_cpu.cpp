// Voxels along rays: counted, then written in place. Rays are independent, so the result does not depend on the number of threads.
#include "common.h"
#include "traverse/walk.h"

namespace suite3d {
namespace {

constexpr int64_t RAYS_OF_A_TASK = 256;

// f(first ray, last ray) for blocks of rays, handed out one by one: rays differ in length.
template <class F>
void each_block(int64_t rays, const F& f) {
  parallel_tasks((rays + RAYS_OF_A_TASK - 1) / RAYS_OF_A_TASK, [&](int64_t task) {
    f(task * RAYS_OF_A_TASK, std::min(rays, (task + 1) * RAYS_OF_A_TASK));
  });
}

std::tuple<Tensor, Tensor, Tensor> traverse_voxels(const Tensor& origins_any, const Tensor& ends_any, const Tensor& offsets_any,
                                                   std::vector<double> start, std::vector<double> size, std::vector<int64_t> cells,
                                                   bool include_end) {
  const Tensor origins = as_contiguous(origins_any), ends = as_contiguous(ends_any), offsets = as_contiguous(offsets_any);
  const int64_t rays = origins.size(0), clouds = offsets.size(0) - 1;
  const Grid grid = make_grid(start, size, cells, clouds);
  const float *from = data<float>(origins), *to = data<float>(ends);
  const int64_t* cloud_ends = data<int64_t>(offsets);
  const Tensor ray_offsets = empty({rays + 1}, ScalarType::Long, origins);
  int64_t* begin = mutable_data<int64_t>(ray_offsets);
  begin[0] = 0;
  each_block(rays, [&](int64_t first, int64_t last) {
    for (int64_t ray = first; ray < last; ++ray) begin[ray + 1] = count_cells(make_walk(grid, from + 3 * ray, to + 3 * ray), include_end);
  });
  for (int64_t ray = 0; ray < rays; ++ray) begin[ray + 1] += begin[ray];
  const Tensor coords = empty({begin[rays], 4}, ScalarType::Int, origins), spans = empty({begin[rays], 2}, ScalarType::Float, origins);
  int32_t* coord = mutable_data<int32_t>(coords);
  float* span = mutable_data<float>(spans);
  each_block(rays, [&](int64_t first, int64_t last) {
    int64_t cloud = std::upper_bound(cloud_ends, cloud_ends + clouds + 1, first) - cloud_ends - 1;
    for (int64_t ray = first; ray < last; ++ray) {
      while (cloud + 1 < clouds && cloud_ends[cloud + 1] <= ray) ++cloud;
      const RayWalk walk = make_walk(grid, from + 3 * ray, to + 3 * ray);
      write_walk(walk, static_cast<int32_t>(cloud), begin[ray + 1] - begin[ray], coord + 4 * begin[ray], span + 2 * begin[ray]);
    }
  });
  return {coords, ray_offsets, spans};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) { m.impl("traverse_voxels", TORCH_BOX(&suite3d::traverse_voxels)); }
