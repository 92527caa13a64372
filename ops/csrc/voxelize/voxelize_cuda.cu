// Points to voxels by a stable radix sort of (cell, point), as on the CPU. One wait for the device: the size of the result.
#include "common_cuda.cuh"
#include "voxelize/grid.h"

namespace suite3d {
namespace {

// Points sorted by cell; those out of range, with the key 1 << bits, come last.
struct Groups {
  Buffer<uint64_t> key;
  Buffer<int64_t> point, voxel;  // voxel: 1 + row of the voxel of each sorted point
  int64_t points = 0, voxels = 0;
};

Groups group_points(const Tensor& xyz, const Tensor& offsets, const Grid& grid, cudaStream_t stream) {
  const int64_t count = xyz.size(0), batch_size = offsets.size(0) - 1;
  Groups groups{{count, xyz}, {count, xyz}, {count, xyz}};
  if (count == 0) return groups;
  const float* position = data<float>(xyz);
  const int64_t* offset = data<int64_t>(offsets);
  Buffer<uint64_t> unsorted(count, xyz);
  Buffer<int64_t> rows(count, xyz);
  Buffer<int32_t> starts(count, xyz);
  const uint64_t outside = uint64_t{1} << grid.bits;
  for_each(count, stream, [=, key = unsorted.get(), row = rows.get()] __device__(int64_t i) {
    const float fx = __fdiv_rn(__fsub_rn(position[3 * i], grid.start[0]), grid.size[0]);
    const float fy = __fdiv_rn(__fsub_rn(position[3 * i + 1], grid.start[1]), grid.size[1]);
    const float fz = __fdiv_rn(__fsub_rn(position[3 * i + 2], grid.start[2]), grid.size[2]);
    const bool inside = fx >= 0 && fy >= 0 && fz >= 0 && fx < static_cast<float>(grid.cells[0]) && fy < static_cast<float>(grid.cells[1]) &&
                        fz < static_cast<float>(grid.cells[2]);
    const uint64_t batch = lower_bound(offset, batch_size + 1, i + 1) - 1;  // the last offset that is <= i
    key[i] = !inside ? outside
                     : (batch << grid.shift_batch) | (static_cast<uint64_t>(fz) << grid.shift_z) | (static_cast<uint64_t>(fy) << grid.shift_y) |
                           static_cast<uint64_t>(fx);
    row[i] = i;
  });
  sort_pairs(unsorted.get(), groups.key.get(), rows.get(), groups.point.get(), count, grid.bits + 1, xyz, stream);
  for_each(count, stream, [=, key = groups.key.get(), start = starts.get()] __device__(int64_t i) {
    start[i] = key[i] < outside && (i == 0 || key[i] != key[i - 1]);
  });
  inclusive_sum(starts.get(), groups.voxel.get(), count, xyz, stream);
  Buffer<int64_t> sizes(2, xyz);
  for_each(1, stream, [=, key = groups.key.get(), voxel = groups.voxel.get(), size = sizes.get()] __device__(int64_t) {
    size[0] = lower_bound(key, count, outside);
    size[1] = voxel[count - 1];
  });
  struct Sizes {
    int64_t points, voxels;
  };
  const Sizes found = read_one(reinterpret_cast<const Sizes*>(sizes.get()), stream);
  groups.points = found.points;
  groups.voxels = found.voxels;
  return groups;
}

using Three = std::tuple<Tensor, Tensor, Tensor>;

Three dynamic_voxelize(Tensor xyz, Tensor offsets, std::vector<double> start, std::vector<double> size, std::vector<int64_t> cells) {
  xyz = as_contiguous(xyz);
  offsets = as_contiguous(offsets);
  const OnDevice device(xyz);
  const Grid grid = make_grid(start, size, cells, offsets.size(0) - 1);
  const Groups groups = group_points(xyz, offsets, grid, device.stream());
  Tensor coords = empty({groups.voxels, 4}, ScalarType::Int, xyz);
  Tensor point_voxel = empty({groups.points}, ScalarType::Long, xyz), order = empty({groups.points}, ScalarType::Long, xyz);
  for_each(groups.points, device.stream(),
           [=, key = groups.key.get(), point = groups.point.get(), voxel = groups.voxel.get(), coord = mutable_data<int32_t>(coords),
            voxel_out = mutable_data<int64_t>(point_voxel), order_out = mutable_data<int64_t>(order)] __device__(int64_t i) {
             voxel_out[i] = voxel[i] - 1;
             order_out[i] = point[i];
             if (i == 0 || voxel[i] != voxel[i - 1]) grid.write(key[i], coord + 4 * (voxel[i] - 1));
           });
  return {coords, point_voxel, order};
}

Three hard_voxelize(Tensor xyz, Tensor feats, Tensor offsets, std::vector<double> start, std::vector<double> size, std::vector<int64_t> cells,
                    int64_t max_points, int64_t max_voxels) {
  xyz = as_contiguous(xyz);
  feats = as_contiguous(feats);
  offsets = as_contiguous(offsets);
  const OnDevice device(xyz);
  const cudaStream_t stream = device.stream();
  const Grid grid = make_grid(start, size, cells, offsets.size(0) - 1);
  const Groups groups = group_points(xyz, offsets, grid, stream);
  const int64_t voxels = groups.voxels, points = groups.points, channels = feats.size(1), width = 3 + channels;
  Buffer<int64_t> starts(voxels + 1, xyz), first(voxels, xyz), first_sorted(voxels, xyz), row(voxels, xyz), touched(voxels, xyz), kept(voxels, xyz);
  Buffer<int32_t> keep(voxels, xyz);
  const auto *key = groups.key.get();
  const auto *point = groups.point.get(), *voxel = groups.voxel.get();
  for_each(points, stream, [=, start = starts.get(), first = first.get(), row = row.get()] __device__(int64_t i) {
    if (i == points - 1) start[voxels] = points;
    if (i > 0 && voxel[i] == voxel[i - 1]) return;
    const int64_t v = voxel[i] - 1;
    start[v] = i;
    first[v] = point[i];
    row[v] = v;
  });
  sort_pairs(first.get(), first_sorted.get(), row.get(), touched.get(), voxels, 63, xyz, stream);
  // voxels in order of first touch; the voxels of a scan are contiguous there as in the sorted list, in the same places
  for_each(voxels, stream, [=, touched = touched.get(), start = starts.get(), keep = keep.get()] __device__(int64_t rank) {
    const int64_t v = touched[rank];
    const uint64_t batch = key[start[v]] >> grid.shift_batch;
    const int64_t before = voxel[lower_bound(key, points, batch << grid.shift_batch)] - 1;
    keep[v] = rank - before < max_voxels;
  });
  inclusive_sum(keep.get(), kept.get(), voxels, xyz, stream);
  const int64_t count = voxels == 0 ? 0 : read_one(kept.get() + voxels - 1, stream);
  Tensor coords = empty({count, 4}, ScalarType::Int, xyz), counts = empty({count}, ScalarType::Long, xyz);
  Tensor out = empty({count, max_points, width}, ScalarType::Float, xyz);
  for_each(voxels * max_points, stream,
           [=, start = starts.get(), keep = keep.get(), kept = kept.get(), position = data<float>(xyz), feat = data<float>(feats),
            coord = mutable_data<int32_t>(coords), used_out = mutable_data<int64_t>(counts), target = mutable_data<float>(out)] __device__(int64_t i) {
             const int64_t v = i / max_points, slot = i % max_points;
             if (!keep[v]) return;
             const int64_t r = kept[v] - 1, held = start[v + 1] - start[v], used = held < max_points ? held : max_points;
             if (slot == 0) {
               grid.write(key[start[v]], coord + 4 * r);
               used_out[r] = used;
             }
             float* to = target + (r * max_points + slot) * width;
             const int64_t p = slot < used ? point[start[v] + slot] : -1;
             for (int64_t k = 0; k < width; ++k) to[k] = p < 0 ? 0.0f : k < 3 ? position[3 * p + k] : feat[channels * p + k - 3];
           });
  return {coords, out, counts};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("dynamic_voxelize", TORCH_BOX(&suite3d::dynamic_voxelize));
  m.impl("hard_voxelize", TORCH_BOX(&suite3d::hard_voxelize));
}
