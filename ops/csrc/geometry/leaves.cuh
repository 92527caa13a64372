// Clouds along a Hilbert curve, cut into leaves of 32 points and groups of 32 leaves, each with its box; and a warp's walk through them.
//
// The Hilbert curve, not the Morton one, because the boxes of its leaves are smaller: on the CPU a third fewer of them are visited.
// Distances to boxes are rounded like those to points, and rounding keeps order, so no box is further than a point in it, to the last bit.
#pragma once

#include "curve/code.cuh"
#include "geometry/packs.cuh"

namespace suite3d {

constexpr int LEAF = 32, GROUP = 32 * LEAF;  // points
constexpr int COUNTED = 128;                 // points that a warp finds the extremes of
constexpr unsigned NOTHING = 0xffffffffu;    // a box that is not there, or has been seen

// Around finite points; low.w holds the bits of the least row.
struct Box {
  float4 low, high;
};

// Leaf l of group g is leaf[32 g + l]. Points that are not finite lie in no box.
struct LeafView {
  const float4* point;  // x, y, z and the bits of the row; cloud b at [ends[b], ends[b + 1])
  const int32_t* row;
  const Box *leaf, *group;
  const int64_t* ends;
  int64_t clouds;
};

// Greatest x, y, z, -x, -y, -z of the finite points of each cloud, as ordered integers; 0 where there are none.
static __global__ void __launch_bounds__(COUNTED) find_extremes(const float* xyz, const int64_t* ends, int64_t clouds, int64_t packs,
                                                               unsigned* extremes) {
  const int64_t number = blockIdx.x * int64_t{COUNTED / 32} + threadIdx.x / 32;
  if (number >= packs) return;
  const Pack pack = pack_of(ends, clouds, COUNTED, number);
  unsigned most[6] = {};
  for (int64_t i = pack.first + threadIdx.x % 32; i < pack.last; i += 32) {
    const float x = xyz[3 * i], y = xyz[3 * i + 1], z = xyz[3 * i + 2];
    if (!is_finite(x, y, z)) continue;
    const float value[6] = {x, y, z, -x, -y, -z};
    for (int side = 0; side < 6; ++side) most[side] = max(most[side], ordered(value[side]));
  }
  for (int side = 0; side < 6; ++side) {
    const unsigned found = __reduce_max_sync(WARP, most[side]);
    if (threadIdx.x % 32 == 0 && found > 0) atomicMax(extremes + 6 * pack.cloud + side, found);
  }
}

// Cloud, then position along the curve through a cube around it; points that are not finite come last.
__device__ inline uint32_t place_of(const float* p, int64_t cloud, const unsigned* extremes, int depth) {
  const uint32_t last = (1u << depth) - 1;
  uint32_t code = (1u << 3 * depth) - 1;
  if (depth > 0 && is_finite(p[0], p[1], p[2])) {
    double low[3], extent = 0;
    for (int axis = 0; axis < 3; ++axis) {
      low[axis] = -static_cast<double>(unordered(extremes[6 * cloud + 3 + axis]));
      extent = fmax(extent, unordered(extremes[6 * cloud + axis]) - low[axis]);
    }
    uint32_t cell[3];
    for (int axis = 0; axis < 3; ++axis) cell[axis] = extent > 0 ? min(last, static_cast<uint32_t>((p[axis] - low[axis]) / extent * last)) : 0;
    code = static_cast<uint32_t>(code_of(cell, depth, true, false));
  }
  return static_cast<uint32_t>(cloud) << 3 * depth | code;
}

// Rows of every cloud along the curve, in the places of the cloud. 32-bit keys of up to ten bits an axis, fewer where many clouds share them.
inline Buffer<int32_t> curve_rows(const Tensor& xyz, const Tensor& offsets, cudaStream_t stream) {
  const int64_t count = xyz.size(0), clouds = offsets.size(0) - 1, packs = pack_room(count, clouds, COUNTED);
  const int cloud_bits = bit_width(clouds), depth = std::min(10, (32 - cloud_bits) / 3);
  const float* points = data<float>(xyz);
  const int64_t* ends = data<int64_t>(offsets);
  Buffer<int32_t> rows(count, xyz);
  const Buffer<int32_t> iota(count, xyz);
  const Buffer<unsigned> extremes(6 * clouds, xyz);
  const Buffer<uint32_t> place(count, xyz), sorted(count, xyz);
  SUITE3D_CUDA(cudaMemsetAsync(extremes.get(), 0, sizeof(unsigned) * 6 * clouds, stream));
  launch_rows(find_extremes, 32 * packs, COUNTED, stream, points, ends, clouds, packs, extremes.get());
  for_each(count, stream, [=, extremes = extremes.get(), place = place.get(), iota = iota.get()] __device__(int64_t i) {
    iota[i] = static_cast<int32_t>(i);
    place[i] = place_of(points + 3 * i, cloud_of(ends, clouds, i), extremes, depth);
  });
  sort_pairs(place.get(), sorted.get(), iota.get(), rows.get(), count, std::max(1, 3 * depth + cloud_bits), xyz, stream);
  return rows;
}

__device__ inline Box no_box() {
  return {{INFINITY, INFINITY, INFINITY, __uint_as_float(NOTHING)}, {-INFINITY, -INFINITY, -INFINITY, 0.f}};
}

// The box around those that the lanes of a warp hold; the same in all of them.
__device__ inline Box warp_box(const Box& box) {
  return {{warp_min(box.low.x), warp_min(box.low.y), warp_min(box.low.z), __uint_as_float(__reduce_min_sync(WARP, __float_as_uint(box.low.w)))},
          {warp_max(box.high.x), warp_max(box.high.y), warp_max(box.high.z), 0.f}};
}

// A block gathers a group: warp l its leaf l, then the first warp all of it.
static __global__ void __launch_bounds__(GROUP) box_leaves(const float* xyz, const int32_t* rows, const int64_t* ends, int64_t clouds,
                                                           float4* point, Box* leaves, Box* groups) {
  __shared__ Box boxes[32];
  const Pack pack = pack_of(ends, clouds, GROUP, blockIdx.x);
  if (pack.first >= pack.last) return;  // for the whole block
  const int lane = threadIdx.x % 32, leaf = threadIdx.x / 32;
  Box box = no_box();
  const int64_t at = pack.first + threadIdx.x;
  if (at < pack.last) {
    const int32_t row = rows[at];
    const float* p = xyz + 3 * static_cast<int64_t>(row);
    const float4 held = {p[0], p[1], p[2], __int_as_float(row)};
    point[at] = held;
    if (is_finite(held.x, held.y, held.z)) box = {held, held};
  }
  box = warp_box(box);
  if (lane == 0) leaves[blockIdx.x * int64_t{32} + leaf] = boxes[leaf] = box;
  __syncthreads();
  if (leaf > 0) return;
  box = warp_box(boxes[lane]);
  if (lane == 0) groups[blockIdx.x] = box;
}

class Leaves {
 public:
  Leaves(const Tensor& xyz, const Tensor& offsets, cudaStream_t stream)
      : offsets_(offsets), rows_(curve_rows(xyz, offsets, stream)), groups_(pack_room(xyz.size(0), offsets.size(0) - 1, GROUP)),
        points_(xyz.size(0), xyz), leaf_boxes_(32 * groups_, xyz), group_boxes_(groups_, xyz) {
    launch_rows(box_leaves, groups_ * GROUP, GROUP, stream, data<float>(xyz), rows_.get(), data<int64_t>(offsets), offsets.size(0) - 1,
                points_.get(), leaf_boxes_.get(), group_boxes_.get());
  }

  LeafView view() const {
    return {points_.get(), rows_.get(), leaf_boxes_.get(), group_boxes_.get(), data<int64_t>(offsets_), offsets_.size(0) - 1};
  }

 private:
  Tensor offsets_;
  Buffer<int32_t> rows_;
  int64_t groups_;
  Buffer<float4> points_;
  Buffer<Box> leaf_boxes_, group_boxes_;
};

// A query in each lane; those that are not active find nothing.
struct LaneQuery {
  float x, y, z;
  bool active;

  __device__ float distance(const float4& point) const {
    const float p[3] = {point.x, point.y, point.z};
    return squared_distance(p, x, y, z);
  }
};

// The query of this lane in a pack of 32 rows of `order`; row -1 in the lanes beyond its end.
__device__ inline LaneQuery lane_query(const float* xyz, const int32_t* order, const Pack& pack, int64_t& row) {
  const int64_t at = pack.first + threadIdx.x % 32;
  row = at < pack.last ? (order ? order[at] : at) : -1;
  LaneQuery query{NAN, NAN, NAN, false};
  if (row < 0) return query;
  const float* p = xyz + 3 * row;
  return {p[0], p[1], p[2], is_finite(p[0], p[1], p[2])};
}

// Squared distance between two boxes, 0 where they meet.
__device__ inline float box_distance(const Box& box, const Box& other) {
  const float x = fmaxf(fmaxf(__fsub_rn(box.low.x, other.high.x), __fsub_rn(other.low.x, box.high.x)), 0.f);
  const float y = fmaxf(fmaxf(__fsub_rn(box.low.y, other.high.y), __fsub_rn(other.low.y, box.high.y)), 0.f);
  const float z = fmaxf(fmaxf(__fsub_rn(box.low.z, other.high.z), __fsub_rn(other.low.z, box.high.z)), 0.f);
  return __fadd_rn(product_sum(x, x, y, y), __fmul_rn(z, z));
}

// Bits of four times the squared distance of two boxes' centres, to choose by; infinity for an empty box.
__device__ inline unsigned centre_distance(const Box& a, const Box& b) {
  const float x = a.low.x - b.low.x + (a.high.x - b.high.x), y = a.low.y - b.low.y + (a.high.y - b.high.y);
  const float z = a.low.z - b.low.z + (a.high.z - b.high.z), distance = x * x + y * y + z * z;
  return __float_as_uint(distance < INFINITY ? distance : INFINITY);
}

// Lane that holds the least value.
__device__ inline int lane_of(unsigned value, unsigned least) { return __ffs(static_cast<int>(__ballot_sync(WARP, value == least))) - 1; }

// Number of the box whose centre is nearest.
__device__ inline int nearest_box(const Box* boxes, int count, const Box& to) {
  unsigned best = NOTHING;
  int at = 0;
  for (int i = threadIdx.x % 32; i < count; i += 32) {
    const unsigned distance = centre_distance(boxes[i], to);
    if (distance < best) best = distance, at = i;
  }
  return __shfl_sync(WARP, at, lane_of(best, __reduce_min_sync(WARP, best)));
}

// Calls visit(i) for the boxes [0, 32) whose distances (as bits, NOTHING for none) the lanes hold, nearest first, as far as reach().
template <class Reach, class Visit>
__device__ void nearest_first(unsigned distance, const Reach& reach, const Visit& visit) {
  for (;;) {
    const unsigned least = __reduce_min_sync(WARP, distance);
    if (least > reach()) return;  // NOTHING too
    const int chosen = lane_of(distance, least);
    if (threadIdx.x % 32 == chosen) distance = NOTHING;
    visit(chosen);
  }
}

// Shows the leaves of a cloud to the queries of a warp: first leaf `own` (-1: the one whose centre is nearest), then by distance.
// visitor.scan(points, count): look at points. visitor.reach(): bits of the squared distance beyond which (strictly) nothing is of use to
// any lane, the same in all of them. visitor.wants(distance, row): whether a box so far away, of rows not below `row`, is of use to this lane.
template <class Visitor>
__device__ void walk_leaves(const LeafView& view, int64_t cloud, const LaneQuery& query, int64_t own, Visitor& visitor) {
  const int64_t begin = view.ends[cloud], first_group = first_pack(begin, cloud, GROUP);
  const int count = static_cast<int>(view.ends[cloud + 1] - begin), groups = (count + GROUP - 1) / GROUP, lane = threadIdx.x % 32;
  if (count <= 0 || !__any_sync(WARP, query.active)) return;
  const Box *group_box = view.group + first_group, *leaf_box = view.leaf + 32 * first_group;
  const float4* point = view.point + begin;
  const float4 here = {query.x, query.y, query.z, 0.f};
  const Box queries = warp_box(query.active ? Box{here, here} : no_box());
  int seed = static_cast<int>(own);
  if (own < 0) {
    const int group = nearest_box(group_box, groups, queries), leaves = (min(GROUP, count - group * GROUP) + LEAF - 1) / LEAF;
    seed = 32 * group + nearest_box(leaf_box + 32 * group, leaves, queries);
  }
  const auto scan = [&](int leaf) { visitor.scan(point + leaf * LEAF, min(LEAF, count - leaf * LEAF)); };
  const auto reach = [&] { return visitor.reach(); };
  const auto visit_group = [&](int group) {
    const int mine = 32 * group + lane;
    const bool there = mine * LEAF < count && mine != seed;
    const unsigned distance = there ? __float_as_uint(box_distance(leaf_box[mine], queries)) : NOTHING;
    nearest_first(distance, reach, [&](int chosen) {
      const int leaf = 32 * group + chosen;
      const Box box = leaf_box[leaf];
      const bool wanted = query.active && visitor.wants(box_distance(box, {here, here}), __float_as_int(box.low.w));
      if (__any_sync(WARP, wanted)) scan(leaf);
    });
  };
  scan(seed);
  const int rounds = (groups + 31) / 32;
  for (int round = 0, base = seed / 1024; round < rounds; ++round, base = base + 1 < rounds ? base + 1 : 0) {
    const int mine = 32 * base + lane;
    const unsigned distance = mine < groups ? __float_as_uint(box_distance(group_box[mine], queries)) : NOTHING;
    nearest_first(distance, reach, [&](int chosen) { visit_group(32 * base + chosen); });
  }
}

}  // namespace suite3d
