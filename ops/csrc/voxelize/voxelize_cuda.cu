// Points to voxels by a stable radix sort of (cell, point), as on the CPU. One wait for the device: the size of the result.
#include "common_cuda.cuh"
#include "voxelize/grid.h"

namespace suite3d {
namespace {

// Points sorted by cell; those out of range, with the key 1 << bits, come last. Keys of 32 bits where the grid allows: half the sorting.
template <class Key>
struct Groups {
  Buffer<Key> key;
  Buffer<int32_t> point;
  Buffer<int64_t> voxel;  // 1 + row of the voxel of each sorted point
};

template <class Key>
Groups<Key> group_points(const Tensor& xyz, const Tensor& offsets, const Grid& grid, cudaStream_t stream) {
  const int64_t count = xyz.size(0), batch_size = offsets.size(0) - 1;
  SUITE3D_CHECK(count <= INT32_MAX, "voxelize: ", count, " points, more than int32 rows hold");
  Groups<Key> groups{{count, xyz}, {count, xyz}, {count, xyz}};
  const float* position = data<float>(xyz);
  const int64_t* offset = data<int64_t>(offsets);
  const Buffer<Key> unsorted(count, xyz);
  const Buffer<int32_t> rows(count, xyz), starts(count, xyz);
  const Key outside = Key{1} << grid.bits;
  for_each(count, stream, [=, key = unsorted.get(), row = rows.get()] __device__(int64_t i) {
    const float fx = __fdiv_rn(__fsub_rn(position[3 * i], grid.start[0]), grid.size[0]);
    const float fy = __fdiv_rn(__fsub_rn(position[3 * i + 1], grid.start[1]), grid.size[1]);
    const float fz = __fdiv_rn(__fsub_rn(position[3 * i + 2], grid.start[2]), grid.size[2]);
    const bool inside = fx >= 0 && fy >= 0 && fz >= 0 && fx < static_cast<float>(grid.cells[0]) && fy < static_cast<float>(grid.cells[1]) &&
                        fz < static_cast<float>(grid.cells[2]);
    const uint64_t batch = lower_bound(offset, batch_size + 1, i + 1) - 1;  // the last offset that is <= i
    key[i] = !inside ? outside
                     : static_cast<Key>((batch << grid.shift_batch) | (static_cast<uint64_t>(fz) << grid.shift_z) |
                                        (static_cast<uint64_t>(fy) << grid.shift_y) | static_cast<uint64_t>(fx));
    row[i] = static_cast<int32_t>(i);
  });
  sort_pairs(unsorted.get(), groups.key.get(), rows.get(), groups.point.get(), count, grid.bits + 1, xyz, stream);
  for_each(count, stream, [=, key = groups.key.get(), start = starts.get()] __device__(int64_t i) {
    start[i] = key[i] < outside && (i == 0 || key[i] != key[i - 1]);
  });
  inclusive_sum(starts.get(), groups.voxel.get(), count, xyz, stream);
  return groups;
}

using Three = std::tuple<Tensor, Tensor, Tensor>;

struct Sizes {
  int64_t points, voxels;
};

template <class Key>
Three dynamic_of(const Tensor& xyz, const Tensor& offsets, const Grid& grid, cudaStream_t stream) {
  const int64_t count = xyz.size(0);
  const Groups<Key> groups = group_points<Key>(xyz, offsets, grid, stream);
  Sizes sizes{0, 0};
  if (count > 0) {
    const Buffer<Sizes> found(1, xyz);
    for_each(1, stream, [=, key = groups.key.get(), voxel = groups.voxel.get(), found = found.get()] __device__(int64_t) {
      *found = {lower_bound(key, count, Key{1} << grid.bits), voxel[count - 1]};
    });
    sizes = read_one(found.get(), stream);
  }
  Tensor coords = empty({sizes.voxels, 4}, ScalarType::Int, xyz);
  Tensor point_voxel = empty({sizes.points}, ScalarType::Long, xyz), order = empty({sizes.points}, ScalarType::Long, xyz);
  for_each(sizes.points, stream,
           [=, key = groups.key.get(), point = groups.point.get(), voxel = groups.voxel.get(), coord = mutable_data<int32_t>(coords),
            voxel_out = mutable_data<int64_t>(point_voxel), order_out = mutable_data<int64_t>(order)] __device__(int64_t i) {
             voxel_out[i] = voxel[i] - 1;
             order_out[i] = point[i];
             if (i == 0 || voxel[i] != voxel[i - 1]) grid.write(key[i], coord + 4 * (voxel[i] - 1));
           });
  return {coords, point_voxel, order};
}

Three dynamic_voxelize(Tensor xyz, Tensor offsets, std::vector<double> start, std::vector<double> size, std::vector<int64_t> cells) {
  xyz = as_contiguous(xyz);
  offsets = as_contiguous(offsets);
  const OnDevice device(xyz);
  const Grid grid = make_grid(start, size, cells, offsets.size(0) - 1);
  return grid.bits < 32 ? dynamic_of<uint32_t>(xyz, offsets, grid, device.stream()) : dynamic_of<uint64_t>(xyz, offsets, grid, device.stream());
}

// The voxels that stay: of each scan the first max_voxels that its points touch.
struct Kept {
  Buffer<int64_t> start;  // first sorted point of each voxel, and one more
  Buffer<int32_t> keep;
  Buffer<int64_t> number;  // how many of the voxels up to this one stay
  Buffer<int32_t> voxel;   // those that do
};

template <class Key>
Kept keep_first(const Groups<Key>& groups, const Tensor& xyz, const Tensor& offsets, const Grid& grid, int64_t max_voxels, cudaStream_t stream) {
  const int64_t count = xyz.size(0);
  const Kept kept{{count + 1, xyz}, {count, xyz}, {count, xyz}, {count, xyz}};
  const Buffer<int32_t> touches(count, xyz);  // 1 where a point is the first of its voxel
  const Buffer<int64_t> touched(count, xyz);  // voxels touched by the points up to this one
  SUITE3D_CUDA(cudaMemsetAsync(touches.get(), 0, sizeof(int32_t) * count, stream));
  SUITE3D_CUDA(cudaMemsetAsync(kept.keep.get(), 0, sizeof(int32_t) * count, stream));
  const Key outside = Key{1} << grid.bits, *key = groups.key.get();
  const int32_t* point = groups.point.get();
  const int64_t* voxel = groups.voxel.get();
  for_each(count, stream, [=, start = kept.start.get(), touch = touches.get()] __device__(int64_t i) {
    if (key[i] >= outside) return;
    if (i + 1 == count || key[i + 1] >= outside) start[voxel[i]] = i + 1;
    if (i > 0 && key[i] == key[i - 1]) return;
    start[voxel[i] - 1] = i;
    touch[point[i]] = 1;
  });
  inclusive_sum(touches.get(), touched.get(), count, xyz, stream);
  for_each(count, stream, [=, offset = data<int64_t>(offsets), touched = touched.get(), keep = kept.keep.get()] __device__(int64_t i) {
    if (key[i] >= outside || (i > 0 && key[i] == key[i - 1])) return;
    const int64_t begin = offset[static_cast<int64_t>(static_cast<uint64_t>(key[i]) >> grid.shift_batch)];
    keep[voxel[i] - 1] = touched[point[i]] - (begin > 0 ? touched[begin - 1] : 0) <= max_voxels;
  });
  inclusive_sum(kept.keep.get(), kept.number.get(), count, xyz, stream);
  for_each(count, stream, [=, keep = kept.keep.get(), number = kept.number.get(), to = kept.voxel.get()] __device__(int64_t v) {
    if (keep[v]) to[number[v] - 1] = static_cast<int32_t>(v);
  });
  return kept;
}

template <class Key>
Three hard_of(const Tensor& xyz, const Tensor& feats, const Tensor& offsets, const Grid& grid, int64_t max_points, int64_t max_voxels,
              cudaStream_t stream) {
  const Groups<Key> groups = group_points<Key>(xyz, offsets, grid, stream);
  const Kept kept = keep_first(groups, xyz, offsets, grid, max_voxels, stream);
  const int64_t points = xyz.size(0), count = points == 0 ? 0 : read_one(kept.number.get() + points - 1, stream);
  const int64_t channels = feats.size(1), width = 3 + channels;
  Tensor coords = empty({count, 4}, ScalarType::Int, xyz), counts = empty({count}, ScalarType::Long, xyz);
  Tensor out = empty({count, max_points, width}, ScalarType::Float, xyz);
  for_each(count * max_points, stream,
           [=, key = groups.key.get(), point = groups.point.get(), start = kept.start.get(), voxel = kept.voxel.get(), position = data<float>(xyz),
            feat = data<float>(feats), coord = mutable_data<int32_t>(coords), used_out = mutable_data<int64_t>(counts),
            target = mutable_data<float>(out)] __device__(int64_t i) {
             const int64_t r = i / max_points, slot = i % max_points, v = voxel[r], first = start[v], held = start[v + 1] - first;
             const int64_t used = held < max_points ? held : max_points;
             if (slot == 0) {
               grid.write(key[first], coord + 4 * r);
               used_out[r] = used;
             }
             float* to = target + i * width;
             const int64_t p = slot < used ? point[first + slot] : -1;
             for (int64_t k = 0; k < width; ++k) to[k] = p < 0 ? 0.0f : k < 3 ? position[3 * p + k] : feat[channels * p + k - 3];
           });
  return {coords, out, counts};
}

Three hard_voxelize(Tensor xyz, Tensor feats, Tensor offsets, std::vector<double> start, std::vector<double> size, std::vector<int64_t> cells,
                    int64_t max_points, int64_t max_voxels) {
  xyz = as_contiguous(xyz);
  feats = as_contiguous(feats);
  offsets = as_contiguous(offsets);
  const OnDevice device(xyz);
  const Grid grid = make_grid(start, size, cells, offsets.size(0) - 1);
  return grid.bits < 32 ? hard_of<uint32_t>(xyz, feats, offsets, grid, max_points, max_voxels, device.stream())
                        : hard_of<uint64_t>(xyz, feats, offsets, grid, max_points, max_voxels, device.stream());
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("dynamic_voxelize", TORCH_BOX(&suite3d::dynamic_voxelize));
  m.impl("hard_voxelize", TORCH_BOX(&suite3d::hard_voxelize));
}
