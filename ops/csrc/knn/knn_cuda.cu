// Exact k nearest neighbours, equal distances by row. Lists longer than registers hold are kept in the output, by one thread a query.
#include "geometry/search_cuda.cuh"

namespace suite3d {
namespace {

struct NearestRule {
  int64_t* index;
  float* distance2;

  __device__ uint64_t key(float distance, int row) const { return make_key(distance, row); }  // NaN and infinity come after NO_KEY
  __device__ unsigned reach(uint64_t bound) const { return static_cast<unsigned>(bound >> 32); }
  __device__ bool wants(float distance, int row, uint64_t bound) const { return make_key(distance, row) < bound; }

  template <int K>
  __device__ void write(const KeyList<K>& list, int k, int64_t query) const {
    int64_t* rows = index + query * k - (K - k);
    float* distances = distance2 + query * k - (K - k);
#pragma unroll
    for (int i = 0; i < K; ++i)
      if (i >= K - k) rows[i] = key_row(list.key[i]), distances[i] = key_distance(list.key[i]);
  }
};

constexpr int THREADS = 128;

__global__ void __launch_bounds__(THREADS) knn_kernel(const float* query, const float* points, int64_t queries, int64_t k, const int64_t* query_ends,
                                                      const int64_t* point_ends, int64_t clouds, int64_t* index, float* distance2) {
  const int64_t i = blockIdx.x * int64_t{THREADS} + threadIdx.x;
  if (i >= queries) return;
  const int64_t b = cloud_of(query_ends, clouds, i);
  const float x = query[3 * i], y = query[3 * i + 1], z = query[3 * i + 2];
  int64_t* out_index = index + i * k;
  float* out_distance = distance2 + i * k;
  for (int64_t at = 0; at < k; ++at) out_index[at] = -1, out_distance[at] = INFINITY;
  for (int64_t j = point_ends[b]; j < point_ends[b + 1]; ++j) {  // in row order, so that equal distances stay in row order
    const float distance = squared_distance(points + 3 * j, x, y, z);
    if (!(distance < out_distance[k - 1])) continue;  // NaN, infinity, or no nearer than the k-th
    int64_t at = k - 1;
    for (; at > 0 && out_distance[at - 1] > distance; --at) out_distance[at] = out_distance[at - 1], out_index[at] = out_index[at - 1];
    out_distance[at] = distance, out_index[at] = j;
  }
}

std::tuple<Tensor, Tensor> knn(Tensor query, Tensor points, int64_t k, Tensor query_offsets, Tensor point_offsets) {
  query = as_contiguous(query), points = as_contiguous(points);
  query_offsets = as_contiguous(query_offsets), point_offsets = as_contiguous(point_offsets);
  SUITE3D_CHECK(k >= 1, "k must be at least 1");
  const OnDevice device(query);
  const int64_t queries = query.size(0);
  const Tensor index = empty({queries, k}, ScalarType::Long, query), distance2 = empty({queries, k}, ScalarType::Float, query);
  int64_t* rows = mutable_data<int64_t>(index);
  float* distances = mutable_data<float>(distance2);
  if (k <= MOST_LISTED)
    search({query, points, query_offsets, point_offsets}, static_cast<int>(k), NearestRule{rows, distances}, device.stream());
  else
    launch_rows(knn_kernel, queries, THREADS, device.stream(), data<float>(query), data<float>(points), queries, k, data<int64_t>(query_offsets),
                data<int64_t>(point_offsets), query_offsets.size(0) - 1, rows, distances);
  return {index, distance2};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) { m.impl("knn", TORCH_BOX(&suite3d::knn)); }
