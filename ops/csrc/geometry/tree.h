// Trees over the clouds of a batch, and the jobs that search them. Compiled for any machine; see views.h for what comes out.
#pragma once

#include <atomic>
#include <cmath>

#include "common.h"
#include "geometry/views.h"

namespace suite3d {

constexpr int AXIS_BITS = 13;  // of a curve index: 2 cm in a cube of 160 m, and four digits to sort
constexpr int BLOCK = 64;

inline uint64_t spread_bits(uint64_t v) {
  v = (v | v << 32) & 0x1f00000000ffffull;
  v = (v | v << 16) & 0x1f0000ff0000ffull;
  v = (v | v << 8) & 0x100f00f00f00f00full;
  v = (v | v << 4) & 0x10c30c30c30c30c3ull;
  return (v | v << 2) & 0x1249249249249249ull;
}

// Position along the Hilbert curve of the cells of a block of points, in place of their first coordinate (Skilling 2004, "Programming
// the Hilbert curve": undo the excess rotations of every level, then Gray-code). Leaves along it have smaller boxes than along the
// Morton curve, which jumps: a third fewer of them are visited. Written without branches for the vectoriser.
inline void hilbert_block(uint32_t (&cell)[3][BLOCK], uint64_t (&index)[BLOCK]) {
  for (int level = AXIS_BITS - 1; level > 0; --level) {
    const uint32_t below = (1u << level) - 1;
    for (int axis = 0; axis < 3; ++axis) {
      for (int i = 0; i < BLOCK; ++i) {
        const uint32_t set = 0u - (cell[axis][i] >> level & 1), swapped = (cell[0][i] ^ cell[axis][i]) & below & ~set;
        cell[0][i] ^= swapped | (below & set);
        if (axis > 0) cell[axis][i] ^= swapped;
      }
    }
  }
  for (int i = 0; i < BLOCK; ++i) cell[1][i] ^= cell[0][i];
  for (int i = 0; i < BLOCK; ++i) cell[2][i] ^= cell[1][i];
  for (int i = 0; i < BLOCK; ++i) {
    uint32_t turn = cell[2][i];  // becomes, bit by bit, the parity of the bits above
    turn ^= turn >> 1, turn ^= turn >> 2, turn ^= turn >> 4, turn ^= turn >> 8, turn ^= turn >> 16;
    turn >>= 1;
    for (int axis = 0; axis < 3; ++axis) cell[axis][i] ^= turn;
  }
  for (int i = 0; i < BLOCK; ++i) index[i] = spread_bits(cell[0][i]) << 2 | spread_bits(cell[1][i]) << 1 | spread_bits(cell[2][i]);
}

inline bool is_finite(const float* p) { return std::isfinite(p[0]) && std::isfinite(p[1]) && std::isfinite(p[2]); }

// Sort keys by their bits from `low` on; equal ones come in their order.
inline void sort_keys(std::vector<uint64_t>& keys, int low) {
  constexpr int DIGIT = 10, DIGITS = 4, VALUES = 1 << DIGIT;
  static_assert(DIGIT * DIGITS >= 3 * AXIS_BITS, "every bit of the curve index is sorted");
  if (keys.size() < 512) {
    std::sort(keys.begin(), keys.end());  // the low bits number the keys
    return;
  }
  std::vector<uint64_t> other(keys.size());
  std::vector<uint32_t> begin(DIGITS * VALUES, 0);
  for (uint64_t key : keys)
    for (int digit = 0; digit < DIGITS; ++digit) ++begin[digit * VALUES + (key >> (low + digit * DIGIT) & (VALUES - 1))];
  for (int digit = 0; digit < DIGITS; ++digit) {
    uint32_t* next = begin.data() + digit * VALUES;
    uint32_t total = 0, most = 0;
    for (int value = 0; value < VALUES; ++value) {
      const uint32_t count = next[value];
      most = std::max(most, count);
      next[value] = total;
      total += count;
    }
    if (most == keys.size()) continue;  // one value: in order already
    const int shift = low + digit * DIGIT;
    for (uint64_t key : keys) other[next[key >> shift & (VALUES - 1)]++] = key;
    keys.swap(other);
  }
}

// Write the finite rows [begin, end) of `xyz` to `rows`, in row order or along the curve. Returns their number.
inline int64_t order_rows(const float* xyz, int64_t begin, int64_t end, bool curve, int32_t* rows) {
  int64_t count = 0;
  float low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY};
  for (int64_t i = begin; i < end; ++i) {
    const float* p = xyz + 3 * i;
    if (!is_finite(p)) continue;
    rows[count++] = static_cast<int32_t>(i);
    for (int axis = 0; axis < 3; ++axis) low[axis] = std::min(low[axis], p[axis]), high[axis] = std::max(high[axis], p[axis]);
  }
  if (!curve || count == 0) return count;
  double extent = 0;
  for (int axis = 0; axis < 3; ++axis) extent = std::max(extent, static_cast<double>(high[axis]) - low[axis]);
  if (!(extent > 0)) return count;
  int row_bits = 1;
  while ((int64_t{1} << row_bits) < count) ++row_bits;
  const int dropped = std::max(0, row_bits + 3 * AXIS_BITS - 64);  // only beyond 33 million points
  const double scale = ((1 << AXIS_BITS) - 1) / extent;
  std::vector<uint64_t> keys(count);
  for (int64_t at = 0; at < count; at += BLOCK) {
    uint32_t cell[3][BLOCK];
    uint64_t index[BLOCK];
    for (int i = 0; i < BLOCK; ++i) {
      const float* p = xyz + 3 * static_cast<int64_t>(rows[std::min(at + i, count - 1)]);
      for (int axis = 0; axis < 3; ++axis)
        cell[axis][i] = static_cast<uint32_t>(static_cast<int32_t>((static_cast<double>(p[axis]) - low[axis]) * scale));
    }
    hilbert_block(cell, index);
    for (int64_t i = at; i < std::min(count, at + BLOCK); ++i) keys[i] = (index[i - at] >> dropped) << row_bits | static_cast<uint64_t>(i);
  }
  sort_keys(keys, row_bits);
  const std::vector<int32_t> unsorted(rows, rows + count);
  const uint64_t mask = (uint64_t{1} << row_bits) - 1;
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

inline void check_offsets(const Tensor& offsets, int64_t rows) {
  const int64_t count = offsets.numel() - 1, *ends = data<int64_t>(offsets);
  SUITE3D_CHECK(count >= 0 && ends[0] == 0 && ends[count] == rows, "offsets must run from 0 to the number of rows");
  for (int64_t b = 0; b < count; ++b) SUITE3D_CHECK(ends[b] <= ends[b + 1], "offsets must not descend");
}

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
