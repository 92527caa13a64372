// Walks a tree of boxes for sixteen queries at a time. Compiled once for each instruction set (see simd.h).
#pragma once

#include "geometry/simd.h"
#include "geometry/views.h"

namespace {

using suite3d::FANOUT;
using suite3d::MAX_LEVELS;
using suite3d::SearchJob;
using suite3d::TreeView;

// Sixteen queries in the lanes, and the box around them.
struct Pack {
  F16 x, y, z;
  float low[3], high[3];
  int lanes;  // the first `lanes` are queries, the others copies of the last one
};

SUITE3D_INLINE Pack load_pack(const SearchJob& job, int64_t index) {
  const int64_t at = index * FANOUT, left = job.queries->count - at;
  const float* const* xyz = job.queries->xyz;
  Pack pack{load(xyz[0] + at), load(xyz[1] + at), load(xyz[2] + at), {}, {}, static_cast<int>(left < 16 ? left : 16)};
  if (job.tree->levels == 0) return pack;  // a scan needs no box
  const F16 axes[3] = {pack.x, pack.y, pack.z};
  for (int axis = 0; axis < 3; ++axis) pack.low[axis] = reduce_min(axes[axis]), pack.high[axis] = reduce_max(axes[axis]);
  return pack;
}

SUITE3D_INLINE uint32_t lanes_mask(const Pack& pack) { return (1u << pack.lanes) - 1; }

SUITE3D_INLINE F16 distance_to(const Pack& pack, const TreeView& tree, int64_t point) {
  return square_sum(pack.x - set1(tree.xyz[0][point]), pack.y - set1(tree.xyz[1][point]), pack.z - set1(tree.xyz[2][point]));
}

struct LeafRange { int64_t first, last; };

// The leaf whose way down has the nearest box centres: a good first guess.
SUITE3D_INLINE int64_t nearest_leaf(const Pack& pack, const TreeView& tree) {
  const F16 half = set1(.5f);
  const F16 centre[3] = {set1(.5f * pack.low[0] + .5f * pack.high[0]), set1(.5f * pack.low[1] + .5f * pack.high[1]),
                         set1(.5f * pack.low[2] + .5f * pack.high[2])};
  int64_t node = 0;
  for (int level = tree.levels - 1; level >= 0; --level) {
    const int64_t at = node * FANOUT, left = tree.nodes[level] - at;
    F16 gap[3];
    for (int axis = 0; axis < 3; ++axis)
      gap[axis] = half * load(tree.lower[level][axis] + at) + half * load(tree.upper[level][axis] + at) - centre[axis];
    float distance[16], least = FLOAT_MAX;
    store(distance, square_sum(gap[0], gap[1], gap[2]));
    node = at;
    for (int i = 0; i < 16 && i < left; ++i)
      if (distance[i] < least) least = distance[i], node = at + i;
  }
  return node;
}

// Leaves to look at first: enough around the leaf of the queries to hold `wanted` points.
SUITE3D_INLINE LeafRange first_leaves(const Pack& pack, const SearchJob& job, int64_t index, int64_t wanted) {
  const TreeView& tree = *job.tree;
  if (tree.levels == 0) return {0, 0};
  const int64_t leaf = job.same ? index : nearest_leaf(pack, tree), size = (wanted + FANOUT - 1) / FANOUT + (wanted > FANOUT ? 1 : 0);
  int64_t first = leaf - (size - 1) / 2;
  if (first + size > tree.nodes[0]) first = tree.nodes[0] - size;
  if (first < 0) first = 0;
  return {first, first + size < tree.nodes[0] ? first + size : tree.nodes[0]};
}

// visitor.scan(first, last): look at points; visitor.reach(): squared distance beyond which (strictly) no point is of use.
template <class Visitor>
SUITE3D_INLINE void walk(const Pack& pack, const TreeView& tree, LeafRange seeds, Visitor& visitor) {
  if (tree.levels == 0) {
    visitor.scan(0, tree.points);
    return;
  }
  struct Entry { float distance; int level; int64_t node; };
  Entry stack[MAX_LEVELS * FANOUT];
  int height = 0;
  auto scan_leaves = [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
    visitor.scan(begin * FANOUT, end * FANOUT < tree.points ? end * FANOUT : tree.points);
  };
  auto expand = [&](int level, int64_t first) __attribute__((always_inline)) {  // push sixteen siblings, the nearest last
    const F16 distance = box_distance(tree.lower[level], tree.upper[level], first, pack.low, pack.high);
    uint32_t hits = bits(distance <= set1(visitor.reach()));
    if (!hits) return;
    float value[16];
    store(value, distance);
    const int base = height;
    for (; hits; hits &= hits - 1) {
      const int child = __builtin_ctz(hits);
      int at = height++;
      for (; at > base && stack[at - 1].distance < value[child]; --at) stack[at] = stack[at - 1];
      stack[at] = {value[child], level, first + child};
    }
  };
  if (seeds.first < seeds.last) scan_leaves(seeds.first, seeds.last);
  expand(tree.levels - 1, 0);
  while (height > 0) {
    const Entry entry = stack[--height];
    if (entry.distance > visitor.reach()) continue;
    if (entry.level > 0)
      expand(entry.level - 1, entry.node * FANOUT);
    else if (entry.node < seeds.first || entry.node >= seeds.last)
      scan_leaves(entry.node, entry.node + 1);
  }
}

// The `k` smallest keys of sixteen queries, row i the i-th smallest of each. A key is a double that orders as its parts do: the bits
// of a non-negative float, then a row. Doubles, because every instruction set has their minimum and maximum; the offset keeps them
// normal, never NaN or infinite.
constexpr uint32_t KEY_OFFSET = 0x00100000u;
constexpr int32_t NO_ROW = 0x7fffffff;

SUITE3D_INLINE float key_distance(double key) {
  uint64_t whole;
  std::memcpy(&whole, &key, 8);
  const uint32_t high = static_cast<uint32_t>(whole >> 32) - KEY_OFFSET;
  float distance;
  std::memcpy(&distance, &high, 4);
  return distance;
}
SUITE3D_INLINE int32_t key_row(double key) {
  uint64_t whole;
  std::memcpy(&whole, &key, 8);
  return static_cast<int32_t>(whole);
}

struct KeyLists {
  double* keys;  // [k, 16]
  int64_t k;

  __attribute__((always_inline)) void clear() const {
    const Keys16 empty = make_keys(set1(FLOAT_MAX), NO_ROW, KEY_OFFSET);
    for (int64_t i = 0; i < k; ++i) store8(keys + 16 * i, empty.low), store8(keys + 16 * i + 8, empty.high);
  }

  // new[i] = max(old[i - 1], min(old[i], key)): each key takes its place and the largest falls out; no change where it is beyond the last.
  __attribute__((always_inline)) void insert(Keys16 key) const {
    double* row = keys + 16 * (k - 1);
    D8 low = load8(row), high = load8(row + 8);
    for (; row > keys; row -= 16) {
      const D8 left_low = load8(row - 16), left_high = load8(row - 8);
      store8(row, max(left_low, min(low, key.low)));
      store8(row + 8, max(left_high, min(high, key.high)));
      low = left_low, high = left_high;
    }
    store8(row, min(low, key.low));
    store8(row + 8, min(high, key.high));
  }

  __attribute__((always_inline)) Keys16 last() const { return {load8(keys + 16 * (k - 1)), load8(keys + 16 * (k - 1) + 8)}; }
};

}  // namespace
