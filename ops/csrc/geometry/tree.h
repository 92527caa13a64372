// Trees over the clouds of a batch, and the jobs that search them. Compiled for any machine; see views.h for what comes out.
#pragma once

#include <atomic>
#include <cmath>

#include "common.h"
#include "geometry/curve.h"
#include "geometry/sort.h"
#include "geometry/views.h"

namespace suite3d {

struct CurveKernels {
  BoundsKernel* bounds = any::point_bounds;
  CurveKernel* keys = any::curve_keys;
};

inline CurveKernels curve_kernels() {
#ifdef SUITE3D_X86
  if (isa() == Isa::avx512) return {avx512::point_bounds, avx512::curve_keys};
  if (isa() == Isa::avx2) return {avx2::point_bounds, avx2::curve_keys};
#endif
  return {};
}

inline bool is_finite(const float* p) { return std::isfinite(p[0]) && std::isfinite(p[1]) && std::isfinite(p[2]); }

// Bits an axis of the cells that points are ordered by: 4 cm in a cube of 160 m for a large cloud; fewer to sort for a small one.
inline int axis_bits(int64_t count) { return count <= 2048 ? 9 : count <= 32768 ? 11 : 12; }

// Write the finite rows [begin, end) of `xyz` to `rows`, in row order or along the curve. Returns their number.
inline int64_t order_rows(const float* xyz, int64_t begin, int64_t end, bool curve, int32_t* rows) {
  const CurveKernels kernels = curve_kernels();
  int64_t count = end - begin;
  float low[3], high[3];
  const bool finite = curve && count > 0 && kernels.bounds(xyz + 3 * begin, count, low, high);  // a small cloud needs no bounds
  if (finite) {
    for (int64_t i = 0; i < count; ++i) rows[i] = static_cast<int32_t>(begin + i);
  } else {
    count = 0;
    for (int axis = 0; axis < 3; ++axis) low[axis] = INFINITY, high[axis] = -INFINITY;
    for (int64_t i = begin; i < end; ++i) {
      const float* p = xyz + 3 * i;
      if (!is_finite(p)) continue;
      rows[count++] = static_cast<int32_t>(i);
      for (int axis = 0; curve && axis < 3; ++axis) low[axis] = std::min(low[axis], p[axis]), high[axis] = std::max(high[axis], p[axis]);
    }
  }
  if (!curve || count == 0) return count;
  double extent = 0;
  for (int axis = 0; axis < 3; ++axis) extent = std::max(extent, static_cast<double>(high[axis]) - low[axis]);
  if (!(extent > 0)) return count;
  const int row_bits = std::max(1, bit_width(count)), axis = std::min(axis_bits(count), (64 - row_bits) / 3);
  std::vector<uint64_t> keys(count);
  kernels.keys(xyz, rows, count, low, extent, axis, row_bits, keys.data());
  sort_keys(keys, row_bits, axis);
  const uint64_t mask = (uint64_t{1} << row_bits) - 1;
  if (finite) {
    for (int64_t i = 0; i < count; ++i) rows[i] = static_cast<int32_t>(begin + static_cast<int64_t>(keys[i] & mask));
    return count;
  }
  const std::vector<int32_t> unsorted(rows, rows + count);
  for (int64_t i = 0; i < count; ++i) rows[i] = unsorted[keys[i] & mask];
  return count;
}

inline int64_t packs_of(int64_t count) { return (count + FANOUT - 1) / FANOUT; }

// Boxes over the leaves of a cloud, level by level; returns the memory that `view` points into.
inline std::vector<float> add_levels(TreeView& view) {
  int64_t padded[MAX_LEVELS], total = 0;
  for (int64_t below = view.points; view.levels == 0 || view.nodes[view.levels - 1] > FANOUT; ++view.levels) {
    below = view.nodes[view.levels] = packs_of(below);
    padded[view.levels] = packs_of(below) * FANOUT;
    total += 6 * padded[view.levels];
  }
  std::vector<float> memory(static_cast<size_t>(total));
  float* free = memory.data();
  for (int level = 0; level < view.levels; ++level) {
    const int64_t below = level ? view.nodes[level - 1] : view.points;
    for (int axis = 0; axis < 3; ++axis) {
      float *lower = free, *upper = free + padded[level];
      free += 2 * padded[level];
      const float *low = level ? view.lower[level - 1][axis] : view.xyz[axis], *high = level ? view.upper[level - 1][axis] : low;
      for (int64_t node = 0; node < padded[level]; ++node) {
        lower[node] = INFINITY, upper[node] = -INFINITY;
        for (int64_t i = node * FANOUT; i < std::min(below, (node + 1) * FANOUT); ++i)
          lower[node] = std::min(lower[node], low[i]), upper[node] = std::max(upper[node], high[i]);
      }
      view.lower[level][axis] = lower, view.upper[level][axis] = upper;
    }
  }
  return memory;
}

// The clouds of a jagged tensor, coordinates by axis, each cloud padded to whole packs.
class CloudSet {
 public:
  CloudSet(const Tensor& source, const Tensor& offsets)
      : source_(data<float>(source)), ends_(data<int64_t>(offsets)), count_(offsets.numel() - 1),
        stride_(FANOUT * (packs_of(source.size(0)) + count_ + 1)), xyz_(3 * stride_), rows_(stride_), boxes_(count_), trees_(count_),
        queries_(count_) {}

  // `curve`: close points close together, for queries of a tree. `tree`: boxes too, for points that are searched.
  void build(int64_t b, bool curve, bool tree) {
    const int64_t at = FANOUT * (packs_of(ends_[b]) + b);
    int32_t* rows = rows_.get() + at;
    float* xyz[3] = {xyz_.get() + at, xyz_.get() + stride_ + at, xyz_.get() + 2 * stride_ + at};
    const int64_t count = order_rows(source_, ends_[b], ends_[b + 1], curve || tree, rows);
    for (int64_t i = 0; i < packs_of(count) * FANOUT; ++i) {
      const float* p = source_ + 3 * static_cast<int64_t>(rows[std::min(i, count - 1)]);  // padding repeats the last point: inside every box
      for (int axis = 0; axis < 3; ++axis) xyz[axis][i] = p[axis];
    }
    trees_[b] = TreeView{{xyz[0], xyz[1], xyz[2]}, rows, count, 0, {}, {}, {}};
    queries_[b] = QueryView{{xyz[0], xyz[1], xyz[2]}, rows, count};
    if (tree && count > 0) boxes_[b] = add_levels(trees_[b]);
  }

  int64_t count() const { return count_; }
  int64_t size(int64_t b) const { return ends_[b + 1] - ends_[b]; }
  const TreeView& tree(int64_t b) const { return trees_[b]; }
  const QueryView& queries(int64_t b) const { return queries_[b]; }

 private:
  const float* source_;
  const int64_t* ends_;
  int64_t count_, stride_;
  Scratch<float> xyz_;
  Scratch<int32_t> rows_;
  std::vector<std::vector<float>> boxes_;
  std::vector<TreeView> trees_;
  std::vector<QueryView> queries_;
};

// Threads take the pieces [0, count) as they become free; each piece writes only its own results.
template <class F>
void parallel_dynamic(int64_t count, const F& f) {
  const int64_t threads = std::min<int64_t>(count, num_threads());
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  std::atomic<int64_t> next{0};
  parallel_for(threads, 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) f(i);
  });
}

// Clouds of fewer points are scanned whole.
constexpr int64_t SCAN_LIMIT = 192;
constexpr int64_t PACKS_OF_A_JOB = 16;

// Two jagged sets of clouds, ready to be searched from each other.
class CloudPairs {
 public:
  // Trees over `points` where they are large; over `queries` too if they are searched as well (`both`).
  CloudPairs(const Tensor& queries, const Tensor& points, const Tensor& query_offsets, const Tensor& point_offsets, bool both) {
    SUITE3D_CHECK(query_offsets.numel() == point_offsets.numel(), "offsets of both sides must describe as many clouds");
    check_offsets(query_offsets, queries.size(0));
    check_offsets(point_offsets, points.size(0));
    const int64_t *query_ends = data<int64_t>(query_offsets), *point_ends = data<int64_t>(point_offsets);
    points_.emplace(points, point_offsets);
    if (queries.const_data_ptr() != points.const_data_ptr() || !std::equal(query_ends, query_ends + query_offsets.numel(), point_ends))
      queries_.emplace(queries, query_offsets);
    parallel_dynamic(points_->count(), [&](int64_t b) {
      const int64_t point_count = points_->size(b), query_count = query_ends[b + 1] - query_ends[b];
      const bool tree = point_count >= SCAN_LIMIT && query_count > 0, back = both && query_count >= SCAN_LIMIT && point_count > 0;
      points_->build(b, tree || back, tree);
      if (queries_) queries_->build(b, tree || back, back);
    });
  }

  // f(job) for every pack of queries, the pieces taken by the threads as they become free; `back` searches the queries from the points.
  template <class F>
  void search(bool back, const F& f) const {
    const CloudSet &others = queries_ ? *queries_ : *points_, &from = back ? *points_ : others, &to = back ? others : *points_;
    std::vector<SearchJob> jobs;
    for (int64_t b = 0; b < from.count(); ++b) {
      const int64_t packs = packs_of(from.queries(b).count);
      for (int64_t first = 0; first < packs; first += PACKS_OF_A_JOB)
        jobs.push_back({&to.tree(b), &from.queries(b), first, std::min(packs, first + PACKS_OF_A_JOB), !queries_});
    }
    const int64_t pieces = packs_of(static_cast<int64_t>(jobs.size()));  // many small clouds: several at a time
    const int64_t size = static_cast<int64_t>(jobs.size()) >= 64 * num_threads() ? FANOUT : 1;
    parallel_dynamic(size == 1 ? static_cast<int64_t>(jobs.size()) : pieces, [&](int64_t piece) {
      for (int64_t i = piece * size; i < std::min<int64_t>(jobs.size(), (piece + 1) * size); ++i) f(jobs[i]);
    });
  }

 private:
  std::optional<CloudSet> points_, queries_;  // no queries_: they are the points
};

}  // namespace suite3d
