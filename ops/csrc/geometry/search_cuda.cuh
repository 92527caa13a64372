// The k best points of each query by a rule: every point of small clouds, the leaves in reach of large ones. Shared by kNN and ball query.
//
// A rule says what a point is worth to a query (a key, the smallest win), how far it reaches, and where its results go.
#pragma once

#include "geometry/key_list.cuh"
#include "geometry/leaves.cuh"

namespace suite3d {

constexpr int MOST_LISTED = 64;  // keys that fit a thread's registers

// Collects the keys of the leaves that a warp walks through.
template <int K, int THREADS, class Rule>
struct LeafVisitor {
  const LaneQuery& query;
  const Rule& rule;
  Collector<K, THREADS>& found;
  unsigned reached = 0x7f800000u;  // infinity

  __device__ unsigned reach() const { return reached; }
  __device__ bool wants(float distance, int row) const { return rule.wants(distance, row, found.bound()); }
  __device__ void scan(const float4* points, int count) {
    found.scan(count, [&](int i) {
      const float4 point = __ldg(points + i);
      return rule.key(query.distance(point), __float_as_int(point.w));
    });
    reached = __reduce_max_sync(WARP, query.active ? rule.reach(found.bound()) : 0);
  }
};

constexpr int WALKERS = 128;

// A warp walks for 32 queries along the curve; `same`: they are the points, so that pack i is leaf i.
template <int K, class Rule>
__global__ void __launch_bounds__(WALKERS, K <= 4 ? 6 : K <= 16 ? 4 : K <= 32 ? 3 : 2)
    search_leaves(LeafView view, const float* xyz, const int32_t* order, const int64_t* ends, int64_t packs, bool same, int k, Rule rule) {
  __shared__ uint64_t pending[PENDING][WALKERS];
  const int64_t number = blockIdx.x * int64_t{WALKERS / 32} + threadIdx.x / 32;
  if (number >= packs) return;
  const Pack pack = pack_of(ends, view.clouds, LEAF, number);
  if (pack.first >= pack.last) return;
  int64_t row;
  const LaneQuery query = lane_query(xyz, order, pack, row);
  Collector<K, WALKERS> found(pending, k);
  LeafVisitor<K, WALKERS, Rule> visitor{query, rule, found};
  walk_leaves(view, pack.cloud, query, same ? (pack.first - ends[pack.cloud]) / LEAF : -1, visitor);
  if (row >= 0) rule.write(found.list, k, row);
}

constexpr int TILE = 1024;

// A block stages tiles of points; its warps hold packs of 32 queries, each pack `slices` times, and every one of those looks at its slice of
// each tile. In the end the lists of a pack are merged. Few queries fill the machine so.
template <int K, int THREADS, class Rule>
__global__ void __launch_bounds__(THREADS, K <= 4 ? 4 : K <= 16 ? 3 : 2)
    search_tiles(const float* xyz, const float* points, const int64_t* ends, const int64_t* point_ends, int64_t clouds, int slices, int k,
                 Rule rule) {
  union Memory {
    struct {
      float4 tile[TILE];
      uint64_t pending[PENDING][THREADS];
    } search;
    uint64_t lists[THREADS / 64][32 * K];
  };
  __shared__ Memory memory;
  const int packs = THREADS / 32 / slices, lane = threadIdx.x % 32, pack = threadIdx.x / 32 % packs, slice = threadIdx.x / 32 / packs;
  const Pack block = pack_of(ends, clouds, 32 * packs, blockIdx.x);
  if (block.first >= block.last) return;  // for the whole block
  int64_t row;
  const int64_t first = block.first + 32 * pack;
  const LaneQuery query = lane_query(xyz, nullptr, {block.cloud, first < block.last ? first : block.last, block.last}, row);
  Collector<K, THREADS> found(memory.search.pending, k);
  const int64_t last = point_ends[block.cloud + 1];
  const bool any = __any_sync(WARP, query.active);
  for (int64_t base = point_ends[block.cloud]; base < last; base += TILE) {
    const int count = static_cast<int>(last - base < TILE ? last - base : TILE), part = (count + slices - 1) / slices;
    for (int i = threadIdx.x; i < count; i += THREADS) {
      const float* p = points + 3 * (base + i);
      memory.search.tile[i] = {p[0], p[1], p[2], __int_as_float(static_cast<int>(base) + i)};
    }
    __syncthreads();
    const int begin = min(slice * part, count), end = min(begin + part, count);
    if (any)
      found.scan(end - begin, [&](int i) {
        const float4 point = memory.search.tile[begin + i];
        return rule.key(query.distance(point), __float_as_int(point.w));
      });
    __syncthreads();
  }
  for (int half = slices / 2; half > 0; half /= 2) {
    if (slice >= half && slice < 2 * half) found.list.put(memory.lists[(slice - half) * packs + pack], k, lane);
    __syncthreads();
    if (slice < half) found.list.merge(memory.lists[slice * packs + pack], lane);
    __syncthreads();
  }
  if (slice == 0 && row >= 0) rule.write(found.list, k, row);
}

// Whether to compare each query with every point. Sizes of single clouds are known on the device only, so their mean decides: above it,
// sorting costs less than what it saves. A batch of which one cloud is much larger than the others takes longer, and gives the same.
inline bool compares_all(int64_t queries, int64_t points, int64_t clouds) {
  const double size = static_cast<double>(points) / static_cast<double>(std::max<int64_t>(clouds, 1));
  return size <= 1024 || (size <= 8192 && static_cast<double>(queries) * size <= 1 << 26);
}

struct SearchSides {
  const Tensor &query, &points, &query_offsets, &point_offsets;

  int64_t clouds() const { return point_offsets.size(0) - 1; }
  // Whether the queries are the points, cloud by cloud, as far as can be seen without looking at values on the device.
  bool same() const {
    return query.const_data_ptr() == points.const_data_ptr() && query.size(0) == points.size(0) &&
           (clouds() == 1 || query_offsets.const_data_ptr() == point_offsets.const_data_ptr());
  }
};

template <int K, class Rule>
void search_small(const SearchSides& sides, int k, const Rule& rule, cudaStream_t stream) {
  constexpr int THREADS = K <= 32 ? 256 : 128, WARPS = THREADS / 32;
  const int64_t queries = sides.query.size(0);
  int slices = 1;
  while (slices < WARPS && queries * slices < 1 << 17) slices *= 2;  // a thousand threads on each of a hundred-odd multiprocessors
  const int64_t blocks = pack_room(queries, sides.clouds(), THREADS / slices);
  launch_rows(search_tiles<K, THREADS, Rule>, blocks * THREADS, THREADS, stream, data<float>(sides.query), data<float>(sides.points),
              data<int64_t>(sides.query_offsets), data<int64_t>(sides.point_offsets), sides.clouds(), slices, k, rule);
}

template <int K, class Rule>
void search_large(const SearchSides& sides, int k, const Rule& rule, cudaStream_t stream) {
  const Leaves leaves(sides.points, sides.point_offsets, stream);
  const LeafView view = leaves.view();
  const bool same = sides.same();
  std::optional<Buffer<int32_t>> order;
  if (!same) order.emplace(curve_rows(sides.query, sides.query_offsets, stream));
  const int64_t packs = pack_room(sides.query.size(0), view.clouds, LEAF);
  launch_rows(search_leaves<K, Rule>, 32 * packs, WALKERS, stream, view, data<float>(sides.query), same ? view.row : order->get(),
              data<int64_t>(sides.query_offsets), packs, same, k, rule);
}

template <int K, class Rule>
void search_with(const SearchSides& sides, int k, const Rule& rule, cudaStream_t stream) {
  if (compares_all(sides.query.size(0), sides.points.size(0), sides.clouds()))
    search_small<K>(sides, k, rule, stream);
  else
    search_large<K>(sides, k, rule, stream);
}

// The k best points of each query, 1 <= k <= MOST_LISTED. No wait for the device.
template <class Rule>
void search(const SearchSides& sides, int k, const Rule& rule, cudaStream_t stream) {
  if (k <= 4) search_with<4>(sides, k, rule, stream);
  else if (k <= 16) search_with<16>(sides, k, rule, stream);
  else if (k <= 32) search_with<32>(sides, k, rule, stream);
  else search_with<64>(sides, k, rule, stream);
}

}  // namespace suite3d
