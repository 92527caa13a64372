// Ball query: the first k rows nearer than the radius. For long lists one thread a query scans its cloud until it has enough.
#include "geometry/search_cuda.cuh"

namespace suite3d {
namespace {

// Distance 0 for all that are inside, so that keys order by row.
struct BallRule {
  float radius2;
  int64_t *index, *count;

  __device__ uint64_t key(float distance, int row) const { return distance < radius2 ? make_key(0.f, row) : NO_KEY; }
  __device__ unsigned reach(uint64_t) const { return __float_as_uint(radius2); }
  __device__ bool wants(float distance, int row, uint64_t bound) const { return key(distance, row) < bound; }

  template <int K>
  __device__ void write(const KeyList<K>& list, int k, int64_t query) const {
    int64_t* rows = index + query * k - (K - k);
    int used = 0;
#pragma unroll
    for (int i = 0; i < K; ++i)
      if (i >= K - k) rows[i] = key_row(list.key[i]), used += list.key[i] < NO_KEY;
    count[query] = used;
  }
};

constexpr int THREADS = 128;

__global__ void __launch_bounds__(THREADS) ball_kernel(const float* query, const float* points, int64_t queries, float radius2, int64_t k,
                                                       const int64_t* query_ends, const int64_t* point_ends, int64_t clouds, int64_t* index,
                                                       int64_t* count) {
  const int64_t i = blockIdx.x * int64_t{THREADS} + threadIdx.x;
  if (i >= queries) return;
  const int64_t b = cloud_of(query_ends, clouds, i);
  const float x = query[3 * i], y = query[3 * i + 1], z = query[3 * i + 2];
  int64_t used = 0;
  for (int64_t j = point_ends[b]; j < point_ends[b + 1] && used < k; ++j)
    if (squared_distance(points + 3 * j, x, y, z) < radius2) index[i * k + used++] = j;
  count[i] = used;
  for (; used < k; ++used) index[i * k + used] = -1;
}

std::tuple<Tensor, Tensor> ball_query(Tensor query, Tensor points, double radius, int64_t k, Tensor query_offsets, Tensor point_offsets) {
  query = as_contiguous(query), points = as_contiguous(points);
  query_offsets = as_contiguous(query_offsets), point_offsets = as_contiguous(point_offsets);
  const OnDevice device(query);
  SUITE3D_CHECK(k >= 1, "k must be at least 1");
  const int64_t queries = query.size(0);
  const Tensor index = empty({queries, k}, ScalarType::Long, query), count = empty({queries}, ScalarType::Long, query);
  int64_t *rows = mutable_data<int64_t>(index), *counts = mutable_data<int64_t>(count);
  const float rounded = static_cast<float>(radius);
  if (k <= MOST_LISTED)
    search({query, points, query_offsets, point_offsets}, static_cast<int>(k), BallRule{rounded * rounded, rows, counts}, device.stream());
  else
    launch_rows(ball_kernel, queries, THREADS, device.stream(), data<float>(query), data<float>(points), queries, rounded * rounded, k,
                data<int64_t>(query_offsets), data<int64_t>(point_offsets), query_offsets.size(0) - 1, rows, counts);
  return {index, count};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) { m.impl("ball_query", TORCH_BOX(&suite3d::ball_query)); }
