// Voxels along rays, one thread a ray: counted, then written in place. One wait for the device: the size of the result.
#include "geometry/device.cuh"
#include "traverse/walk.h"

namespace suite3d {
namespace {

std::tuple<Tensor, Tensor, Tensor> traverse_voxels(Tensor origins, Tensor ends, Tensor offsets, std::vector<double> start,
                                                   std::vector<double> size, std::vector<int64_t> cells, bool include_end) {
  origins = as_contiguous(origins), ends = as_contiguous(ends), offsets = as_contiguous(offsets);
  const OnDevice device(origins);
  const cudaStream_t stream = device.stream();
  const int64_t rays = origins.size(0), clouds = offsets.size(0) - 1;
  const Grid grid = make_grid(start, size, cells, clouds);
  const float *from = data<float>(origins), *to = data<float>(ends);
  const int64_t* cloud_ends = data<int64_t>(offsets);
  const Tensor ray_offsets = empty({rays + 1}, ScalarType::Long, origins);
  int64_t* begin = mutable_data<int64_t>(ray_offsets);
  const Buffer<int64_t> counts(rays + 1, origins);
  for_each(rays + 1, stream, [=, count = counts.get()] __device__(int64_t i) {  // shifted by one: their sums are the offsets
    count[i] = i == 0 ? 0 : count_cells(make_walk(grid, from + 3 * (i - 1), to + 3 * (i - 1)), include_end);
  });
  inclusive_sum(counts.get(), begin, rays + 1, origins, stream);
  const int64_t total = read_one(begin + rays, stream);
  const Tensor coords = empty({total, 4}, ScalarType::Int, origins), spans = empty({total, 2}, ScalarType::Float, origins);
  for_each(rays, stream, [=, coord = mutable_data<int32_t>(coords), span = mutable_data<float>(spans)] __device__(int64_t ray) {
    const int32_t cloud = static_cast<int32_t>(cloud_of(cloud_ends, clouds, ray));
    write_walk(make_walk(grid, from + 3 * ray, to + 3 * ray), cloud, begin[ray + 1] - begin[ray], coord + 4 * begin[ray], span + 2 * begin[ray]);
  });
  return {coords, ray_offsets, spans};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) { m.impl("traverse_voxels", TORCH_BOX(&suite3d::traverse_voxels)); }
