// Clouds along a Hilbert curve, cut into leaves of 32 points and groups of 32 leaves, each with its box; and a warp's walk through them.
//
// The Hilbert curve, not the Morton one, because the boxes of its leaves are smaller: on the CPU a third fewer of them are visited.
// Distances to boxes are rounded like those to points, and rounding keeps order, so no box is further than a point in it, to the last bit.
#pragma once

#include "geometry/curve_code.cuh"
#include "geometry/packs.cuh"

namespace suite3d {

constexpr int LEAF = 32, GROUP = 32 * LEAF;  // points
constexpr int COUNTED = 128;                 // points that a warp finds the extremes of
constexpr unsigned NOTHING = 0xffffffffu;    // a box that is not there, or has been seen

// Leaf l of group g is leaf_low[32 g + l]; low.w holds the bits of the least row. Points that are not finite lie in no box.
struct LeafView {
  const float4* point;  // x, y, z and the bits of the row; cloud b at [ends[b], ends[b + 1])
  const int32_t* row;
  const float4 *leaf_low, *leaf_high, *group_low, *group_high;
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

// A box around what the lanes of a warp hold; the same in all of them.
__device__ inline void warp_box(float4& low, float4& high) {
  low = {warp_min(low.x), warp_min(low.y), warp_min(low.z),
         __uint_as_float(__reduce_min_sync(WARP, __float_as_uint(low.w)))};
  high = {warp_max(high.x), warp_max(high.y), warp_max(high.z), 0.f};
}

// A block gathers a group: warp l its leaf l, then the first warp all of it.
static __global__ void __launch_bounds__(GROUP) box_leaves(const float* xyz, const int32_t* rows, const int64_t* ends, int64_t clouds, float4* point,
                                                    float4* leaf_low, float4* leaf_high, float4* group_low, float4* group_high) {
  __shared__ float4 lows[32], highs[32];
  const Pack pack = pack_of(ends, clouds, GROUP, blockIdx.x);
  if (pack.first >= pack.last) return;  // for the whole block
  const int lane = threadIdx.x % 32, leaf = threadIdx.x / 32;
  const float4 no_low = {INFINITY, INFINITY, INFINITY, __uint_as_float(NOTHING)}, no_high = {-INFINITY, -INFINITY, -INFINITY, 0.f};
  float4 low = no_low, high = no_high;
  const int64_t at = pack.first + threadIdx.x;
  if (at < pack.last) {
    const int32_t row = rows[at];
    const float* p = xyz + 3 * static_cast<int64_t>(row);
    const float4 held = {p[0], p[1], p[2], __int_as_float(row)};
    point[at] = held;
    if (is_finite(held.x, held.y, held.z)) low = high = held;
  }
  warp_box(low, high);
  if (lane == 0) {
    leaf_low[blockIdx.x * int64_t{32} + leaf] = lows[leaf] = low;
    leaf_high[blockIdx.x * int64_t{32} + leaf] = highs[leaf] = high;
  }
  __syncthreads();
  if (leaf > 0) return;
  low = lows[lane], high = highs[lane];
  warp_box(low, high);
  if (lane == 0) group_low[blockIdx.x] = low, group_high[blockIdx.x] = high;
}

class Leaves {
 public:
  Leaves(const Tensor& xyz, const Tensor& offsets, cudaStream_t stream)
      : offsets_(offsets), rows_(curve_rows(xyz, offsets, stream)), groups_(pack_room(xyz.size(0), offsets.size(0) - 1, GROUP)),
        points_(xyz.size(0), xyz), leaf_boxes_(64 * groups_, xyz), group_boxes_(2 * groups_, xyz) {
    const LeafView made = view();
    launch_rows(box_leaves, groups_ * GROUP, GROUP, stream, data<float>(xyz), made.row, made.ends, made.clouds, points_.get(), leaf_boxes_.get(),
                leaf_boxes_.get() + 32 * groups_, group_boxes_.get(), group_boxes_.get() + groups_);
  }

  LeafView view() const {
    const float4 *leaf = leaf_boxes_.get(), *group = group_boxes_.get();
    return {points_.get(), rows_.get(), leaf, leaf + 32 * groups_, group, group + groups_, data<int64_t>(offsets_), offsets_.size(0) - 1};
  }

 private:
  Tensor offsets_;
  Buffer<int32_t> rows_;
  int64_t groups_;
  Buffer<float4> points_, leaf_boxes_, group_boxes_;
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
__device__ inline float box_distance(const float4& low, const float4& high, const float4& from, const float4& to) {
  const float x = fmaxf(fmaxf(__fsub_rn(low.x, to.x), __fsub_rn(from.x, high.x)), 0.f);
  const float y = fmaxf(fmaxf(__fsub_rn(low.y, to.y), __fsub_rn(from.y, high.y)), 0.f);
  const float z = fmaxf(fmaxf(__fsub_rn(low.z, to.z), __fsub_rn(from.z, high.z)), 0.f);
  return __fadd_rn(product_sum(x, x, y, y), __fmul_rn(z, z));
}

// Bits of four times the squared distance of two boxes' centres, to choose by; infinity for an empty box.
__device__ inline unsigned centre_distance(const float4& low, const float4& high, const float4& from, const float4& to) {
  const float x = low.x - from.x + (high.x - to.x), y = low.y - from.y + (high.y - to.y), z = low.z - from.z + (high.z - to.z);
  const float distance = x * x + y * y + z * z;
  return __float_as_uint(distance < INFINITY ? distance : INFINITY);
}

// Lane that holds the least value.
__device__ inline int lane_of(unsigned value, unsigned least) { return __ffs(static_cast<int>(__ballot_sync(WARP, value == least))) - 1; }

// Number of the box nearest by centres among `count` at low, high.
__device__ inline int nearest_box(const float4* low, const float4* high, int count, const float4& from, const float4& to) {
  unsigned best = NOTHING;
  int at = 0;
  for (int i = threadIdx.x % 32; i < count; i += 32) {
    const unsigned distance = centre_distance(low[i], high[i], from, to);
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
  const float4 *group_low = view.group_low + first_group, *group_high = view.group_high + first_group;
  const float4 *leaf_low = view.leaf_low + 32 * first_group, *leaf_high = view.leaf_high + 32 * first_group, *point = view.point + begin;
  const float4 here = {query.x, query.y, query.z, 0.f};
  float4 from = {INFINITY, INFINITY, INFINITY, 0.f}, to = {-INFINITY, -INFINITY, -INFINITY, 0.f};
  if (query.active) from = to = here;
  warp_box(from, to);
  int seed = static_cast<int>(own);
  if (own < 0) {
    const int group = nearest_box(group_low, group_high, groups, from, to), leaves = (min(GROUP, count - group * GROUP) + LEAF - 1) / LEAF;
    seed = 32 * group + nearest_box(leaf_low + 32 * group, leaf_high + 32 * group, leaves, from, to);
  }
  const auto scan = [&](int leaf) { visitor.scan(point + leaf * LEAF, min(LEAF, count - leaf * LEAF)); };
  const auto reach = [&] { return visitor.reach(); };
  const auto visit_group = [&](int group) {
    const int mine = 32 * group + lane;
    const bool there = mine * LEAF < count && mine != seed;
    const unsigned distance = there ? __float_as_uint(box_distance(leaf_low[mine], leaf_high[mine], from, to)) : NOTHING;
    nearest_first(distance, reach, [&](int chosen) {
      const int leaf = 32 * group + chosen;
      const float4 low = leaf_low[leaf];
      const bool wanted = query.active && visitor.wants(box_distance(low, leaf_high[leaf], here, here), __float_as_int(low.w));
      if (__any_sync(WARP, wanted)) scan(leaf);
    });
  };
  scan(seed);
  const int rounds = (groups + 31) / 32;
  for (int round = 0, base = seed / 1024; round < rounds; ++round, base = base + 1 < rounds ? base + 1 : 0) {
    const int mine = 32 * base + lane;
    const unsigned distance = mine < groups ? __float_as_uint(box_distance(group_low[mine], group_high[mine], from, to)) : NOTHING;
    nearest_first(distance, reach, [&](int chosen) { visit_group(32 * base + chosen); });
  }
}

}  // namespace suite3d
