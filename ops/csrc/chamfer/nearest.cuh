// Nearest points of two sets of clouds in both directions: three ways for three sizes, the same results.
#pragma once

#include "geometry/key_list.cuh"
#include "geometry/leaves.cuh"

namespace suite3d {

// Where the nearest points of one side go. A key is the bits of the squared distance, then the row: equal distances to the lowest.
struct NearestOut {
  int64_t* index;
  float* distance2;

  __device__ void write(int64_t i, uint64_t key) const { index[i] = key_row(key), distance2[i] = key_distance(key); }
};

// The points of one side, and the results for them.
struct Side {
  const float* xyz;
  const int64_t* ends;
  NearestOut out;
};

constexpr int GROUPERS = 128, STAGED = 64;  // threads of a block, points that a warp stages

// Many small clouds: a warp holds 32 points of either side and scans the cloud of the other. Packs [0, packs) are those of `a`.
__global__ void __launch_bounds__(GROUPERS) nearest_of_groups(Side a, Side b, int64_t clouds, int64_t packs, int64_t all_packs) {
  __shared__ float4 tiles[GROUPERS / 32][STAGED];
  const int64_t number = blockIdx.x * int64_t{GROUPERS / 32} + threadIdx.x / 32;
  if (number >= all_packs) return;
  const bool back = number >= packs;
  const Side own = back ? b : a, other = back ? a : b;
  const Pack pack = pack_of(own.ends, clouds, LEAF, back ? number - packs : number);
  if (pack.first >= pack.last) return;
  float4* tile = tiles[threadIdx.x / 32];
  int64_t row;
  const LaneQuery query = lane_query(own.xyz, nullptr, pack, row);
  float best = INFINITY;
  int64_t nearest = -1;
  const int64_t last = other.ends[pack.cloud + 1];
  for (int64_t base = other.ends[pack.cloud]; base < last; base += STAGED) {
    const int count = static_cast<int>(last - base < STAGED ? last - base : STAGED);
    __syncwarp();
    for (int i = threadIdx.x % 32; i < count; i += 32) {
      const float* p = other.xyz + 3 * (base + i);
      tile[i] = {p[0], p[1], p[2], 0.f};
    }
    __syncwarp();
#pragma unroll 8
    for (int i = 0; i < count; ++i) {
      const float distance = query.distance(tile[i]);
      if (distance < best) best = distance, nearest = base + i;  // in row order; not NaN, not infinity
    }
  }
  if (row >= 0) own.out.write(row, nearest < 0 ? NO_KEY : make_key(best, static_cast<int>(nearest)));
}

constexpr int PAIRERS = 128, HELD = 8, COLUMNS = 256;  // threads of a block, points of `a` that each holds, points of `b` in a tile

// Clouds of a few thousand points: each distance is made once and serves both directions. A block holds PAIRERS * HELD points of `a` in
// registers and goes through every gridDim.y-th tile of `b`; the least of a column is found by the warp. Blocks join by minima of keys.
__global__ void __launch_bounds__(PAIRERS) nearest_of_pairs(Side a, Side b, int64_t clouds, uint64_t* a_keys, uint64_t* b_keys) {
  constexpr int WARPS = PAIRERS / 32;
  __shared__ float4 tile[COLUMNS];
  __shared__ uint64_t columns[WARPS][COLUMNS];
  const Pack pack = pack_of(a.ends, clouds, PAIRERS * HELD, blockIdx.x);
  if (pack.first >= pack.last) return;  // for the whole block
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first = pack.first + threadIdx.x * HELD, last = b.ends[pack.cloud + 1];
  float x[HELD], y[HELD], z[HELD], best[HELD];
  int nearest[HELD];
#pragma unroll
  for (int h = 0; h < HELD; ++h) {
    const bool there = first + h < pack.last;
    const float* p = a.xyz + 3 * (first + h);
    x[h] = there ? p[0] : NAN, y[h] = there ? p[1] : NAN, z[h] = there ? p[2] : NAN;
    best[h] = INFINITY, nearest[h] = 0;
  }
  for (int64_t base = b.ends[pack.cloud] + blockIdx.y * int64_t{COLUMNS}; base < last; base += gridDim.y * int64_t{COLUMNS}) {
    const int count = static_cast<int>(last - base < COLUMNS ? last - base : COLUMNS);
    for (int i = threadIdx.x; i < count; i += PAIRERS) {
      const float* p = b.xyz + 3 * (base + i);
      tile[i] = {p[0], p[1], p[2], 0.f};
    }
    __syncthreads();
    for (int i = 0; i < count; ++i) {
      const float point[3] = {tile[i].x, tile[i].y, tile[i].z};
      float least = INFINITY;
      int held = 0;
#pragma unroll
      for (int h = 0; h < HELD; ++h) {
        const float distance = squared_distance(point, x[h], y[h], z[h]);
        if (distance < best[h]) best[h] = distance, nearest[h] = static_cast<int>(base) + i;
        if (distance < least) least = distance, held = h;
      }
      const unsigned bits = __reduce_min_sync(WARP, __float_as_uint(least));
      if (lane == lane_of(__float_as_uint(least), bits)) columns[warp][i] = make_key(least, static_cast<int>(first) + held);  // the lowest row
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += PAIRERS) {
      uint64_t key = NO_KEY;
      for (int w = 0; w < WARPS; ++w) key = lesser(key, columns[w][i]);
      if (key < NO_KEY) atomicMin(reinterpret_cast<unsigned long long*>(b_keys + base + i), static_cast<unsigned long long>(key));
    }
    __syncthreads();
  }
  for (int h = 0; h < HELD; ++h)
    if (best[h] < INFINITY)
      atomicMin(reinterpret_cast<unsigned long long*>(a_keys + first + h), static_cast<unsigned long long>(make_key(best[h], nearest[h])));
}

struct NearestVisitor {
  const LaneQuery& query;
  uint64_t best = NO_KEY;
  unsigned reached = 0x7f800000u;  // infinity

  __device__ unsigned reach() const { return reached; }
  __device__ bool wants(float distance, int row) const { return make_key(distance, row) < best; }
  __device__ void scan(const float4* points, int count) {
#pragma unroll 8
    for (int i = 0; i < count; ++i) {
      const float4 point = __ldg(points + i);
      best = lesser(best, make_key(query.distance(point), __float_as_int(point.w)));
    }
    reached = __reduce_max_sync(WARP, query.active ? static_cast<unsigned>(best >> 32) : 0);
  }
};

// Large clouds: a warp walks the leaves of the other side for 32 points along the curve.
__global__ void __launch_bounds__(GROUPERS, 5) nearest_of_leaves(LeafView from, LeafView to, const float* xyz, int64_t packs, NearestOut out) {
  const int64_t number = blockIdx.x * int64_t{GROUPERS / 32} + threadIdx.x / 32;
  if (number >= packs) return;
  const Pack pack = pack_of(from.ends, from.clouds, LEAF, number);
  if (pack.first >= pack.last) return;
  int64_t row;
  const LaneQuery query = lane_query(xyz, from.row, pack, row);
  NearestVisitor visitor{query};
  walk_leaves(to, pack.cloud, query, -1, visitor);
  if (row >= 0) out.write(row, visitor.best);
}

}  // namespace suite3d
