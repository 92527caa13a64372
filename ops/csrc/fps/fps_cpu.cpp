// Exact furthest point sampling: every distance at every step for small clouds, buckets with bounding boxes for large ones
// (Han et al. 2023, QuickFPS, without its reordering of the start point). Both give the same rows.
#include "fps/fps_kernel.h"
#include "geometry/tree.h"

namespace suite3d {
namespace {

struct Kernels {
  FpsScan* scan = any::fps_scan;
  FpsBuckets* buckets = any::fps_buckets;
};

Kernels kernels() {
#ifdef SUITE3D_X86
  if (isa() == Isa::avx512) return {avx512::fps_scan, avx512::fps_buckets};
  if (isa() == Isa::avx2) return {avx2::fps_scan, avx2::fps_buckets};
#endif
  return {};
}

// Nanoseconds, roughly: only which of the two is faster matters.
bool buckets_pay(int64_t size, int64_t count) {
  const double points = static_cast<double>(size), samples = static_cast<double>(count);
  return size >= 1024 && 0.2 * points * samples > 60. * points + 700. * samples;
}

// Returns false, with nothing chosen, if a coordinate is not finite; so does bucket_cloud.
bool scan_cloud(const float* xyz, int64_t size, int64_t start, int64_t count, int64_t* chosen, FpsScan* kernel) {
  const int64_t padded = packs_of(size) * FANOUT;
  std::vector<float> memory(4 * padded, 0.f);
  float* axes[4] = {memory.data(), memory.data() + padded, memory.data() + 2 * padded, memory.data() + 3 * padded};
  bool finite = true;
  for (int64_t i = 0; i < size; ++i) {
    finite &= is_finite(xyz + 3 * i);
    for (int axis = 0; axis < 3; ++axis) axes[axis][i] = xyz[3 * i + axis];
  }
  if (!finite) return false;
  std::fill(axes[3], axes[3] + size, INFINITY);
  std::fill(axes[3] + size, axes[3] + padded, -1.f);
  kernel({{axes[0], axes[1], axes[2]}, axes[3], padded}, start, count, chosen);
  return true;
}

// Boxes of `count` items of `size` parts each, padded to whole packs with boxes that no finite distance reaches.
struct Boxes {
  std::vector<float> lower[3], upper[3];
  const float *low[3], *high[3];

  template <class Low, class High>
  Boxes(int64_t count, int64_t padded, int64_t size, int64_t parts, const Low& part_low, const High& part_high) {
    for (int axis = 0; axis < 3; ++axis) {
      lower[axis].assign(padded, INFINITY), upper[axis].assign(padded, -INFINITY);
      for (int64_t item = 0; item < count; ++item)
        for (int64_t part = item * size; part < std::min(parts, (item + 1) * size); ++part) {
          lower[axis][item] = std::min(lower[axis][item], part_low[axis][part]);
          upper[axis][item] = std::max(upper[axis][item], part_high[axis][part]);
        }
      low[axis] = lower[axis].data(), high[axis] = upper[axis].data();
    }
  }
};

bool bucket_cloud(const float* xyz, int64_t size, int64_t start, int64_t count, int64_t* chosen, FpsBuckets* kernel) {
  const int64_t leaves = (size + BUCKET - 1) / BUCKET, groups = packs_of(leaves), padded_groups = packs_of(groups) * FANOUT;
  const int64_t slots = leaves * BUCKET;
  std::vector<int32_t> rows(slots, 0x7fffffff);
  if (order_rows(xyz, 0, size, true, rows.data()) != size) return false;
  std::vector<float> axes[3], nearest(slots, INFINITY);
  int64_t start_slot = 0;
  for (int64_t i = 0; i < size; ++i) start_slot = rows[i] == start ? i : start_slot;
  for (int axis = 0; axis < 3; ++axis) {
    axes[axis].assign(slots, 0.f);
    for (int64_t i = 0; i < size; ++i) axes[axis][i] = xyz[3 * static_cast<int64_t>(rows[i]) + axis];
  }
  std::fill(nearest.begin() + size, nearest.end(), -1.f);
  const float* points[3] = {axes[0].data(), axes[1].data(), axes[2].data()};
  const Boxes leaf(leaves, padded_groups * FANOUT, BUCKET, size, points, points), group(groups, padded_groups, FANOUT, leaves, leaf.low, leaf.high);
  std::vector<float> leaf_furthest(padded_groups * FANOUT, -1.f), group_furthest(padded_groups, -1.f);
  std::fill(leaf_furthest.begin(), leaf_furthest.begin() + leaves, INFINITY);
  std::fill(group_furthest.begin(), group_furthest.begin() + groups, INFINITY);
  BucketCloud cloud{{points[0], points[1], points[2]}, nearest.data(), rows.data(), padded_groups * FANOUT, padded_groups, {}, {}, {}, {},
                    leaf_furthest.data(), group_furthest.data()};
  for (int axis = 0; axis < 3; ++axis) {
    cloud.leaf_lower[axis] = leaf.low[axis], cloud.leaf_upper[axis] = leaf.high[axis];
    cloud.group_lower[axis] = group.low[axis], cloud.group_upper[axis] = group.high[axis];
  }
  kernel(cloud, start_slot, count, chosen);
  return true;
}

Tensor furthest_point_sample(const Tensor& xyz_any, const Tensor& offsets_any, const Tensor& counts_any, const Tensor& start_any, int64_t total,
                             int64_t) {
  const Tensor xyz = as_contiguous(xyz_any), offsets = as_contiguous(offsets_any);
  const Tensor counts = as_contiguous(counts_any), start = as_contiguous(start_any);
  check_offsets(offsets, xyz.size(0));
  const int64_t clouds = offsets.numel() - 1, *ends = data<int64_t>(offsets), *wanted = data<int64_t>(counts), *first = data<int64_t>(start);
  SUITE3D_CHECK(counts.numel() == clouds && start.numel() == clouds, "counts and start must have one entry for each cloud");
  std::vector<int64_t> out(clouds + 1, 0);
  for (int64_t b = 0; b < clouds; ++b) {
    SUITE3D_CHECK(wanted[b] >= 0, "counts must not be negative");
    SUITE3D_CHECK(wanted[b] == 0 || (ends[b] <= first[b] && first[b] < ends[b + 1]),
                  "start must lie in its cloud, and a sampled cloud must not be empty");
    out[b + 1] = out[b] + wanted[b];
  }
  SUITE3D_CHECK(total < 0 || total == out[clouds], "total must be the sum of counts");
  const Tensor result = empty({out[clouds]}, ScalarType::Long, offsets);
  int64_t* rows = mutable_data<int64_t>(result);
  const Kernels kernel = kernels();
  std::atomic<bool> finite{true};
  parallel_dynamic(clouds, [&](int64_t b) {
    const int64_t size = ends[b + 1] - ends[b];
    if (wanted[b] == 0) return;
    const float* points = data<float>(xyz) + 3 * ends[b];
    int64_t* chosen = rows + out[b];
    const bool done = buckets_pay(size, wanted[b]) ? bucket_cloud(points, size, first[b] - ends[b], wanted[b], chosen, kernel.buckets)
                                                   : scan_cloud(points, size, first[b] - ends[b], wanted[b], chosen, kernel.scan);
    if (!done) finite = false;
    for (int64_t i = 0; done && i < wanted[b]; ++i) chosen[i] += ends[b];
  });
  SUITE3D_CHECK(finite, "xyz must be finite");
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) { m.impl("furthest_point_sample", TORCH_BOX(&suite3d::furthest_point_sample)); }
