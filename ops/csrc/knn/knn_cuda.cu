// Exact k nearest neighbours, one thread a query: it scans its cloud in row order, so that equal distances stay in row order.
#include "geometry/device.cuh"

namespace suite3d {
namespace {

constexpr int THREADS = 128;

// The list of a query: in registers and local memory for small k, in the output itself for any k.
template <int ROOM>
struct List {
  float distance[ROOM];
  int32_t row[ROOM];

  __device__ void clear(int64_t k) {
    for (int i = 0; i < k; ++i) distance[i] = INFINITY, row[i] = -1;
  }
  __device__ void insert(int64_t k, float value, int64_t at) {
    int i = static_cast<int>(k) - 1;
    for (; i > 0 && distance[i - 1] > value; --i) distance[i] = distance[i - 1], row[i] = row[i - 1];
    distance[i] = value, row[i] = static_cast<int32_t>(at);
  }
  __device__ float last(int64_t k) const { return distance[k - 1]; }
};

template <int ROOM>
__global__ void __launch_bounds__(THREADS) knn_kernel(const float* query, const float* points, int64_t queries, int64_t k, const int64_t* query_ends,
                                                      const int64_t* point_ends, int64_t clouds, int64_t* index, float* distance2) {
  const int64_t i = blockIdx.x * int64_t{THREADS} + threadIdx.x;
  if (i >= queries) return;
  const int64_t b = cloud_of(query_ends, clouds, i);
  const float x = query[3 * i], y = query[3 * i + 1], z = query[3 * i + 2];
  int64_t* out_index = index + i * k;
  float* out_distance = distance2 + i * k;
  if constexpr (ROOM > 0) {
    List<ROOM> list;
    list.clear(k);
    float bound = INFINITY;
    for (int64_t j = point_ends[b]; j < point_ends[b + 1]; ++j) {
      const float distance = squared_distance(points + 3 * j, x, y, z);
      if (!(distance < bound)) continue;  // NaN, infinity, or no nearer than the k-th
      list.insert(k, distance, j);
      bound = list.last(k);
    }
    for (int64_t at = 0; at < k; ++at) out_index[at] = list.row[at], out_distance[at] = list.distance[at];
  } else {
    for (int64_t at = 0; at < k; ++at) out_index[at] = -1, out_distance[at] = INFINITY;
    for (int64_t j = point_ends[b]; j < point_ends[b + 1]; ++j) {
      const float distance = squared_distance(points + 3 * j, x, y, z);
      if (!(distance < out_distance[k - 1])) continue;
      int64_t at = k - 1;
      for (; at > 0 && out_distance[at - 1] > distance; --at) out_distance[at] = out_distance[at - 1], out_index[at] = out_index[at - 1];
      out_distance[at] = distance, out_index[at] = j;
    }
  }
}

std::tuple<Tensor, Tensor> knn(Tensor query, Tensor points, int64_t k, Tensor query_offsets, Tensor point_offsets) {
  query = as_contiguous(query), points = as_contiguous(points);
  query_offsets = as_contiguous(query_offsets), point_offsets = as_contiguous(point_offsets);
  const OnDevice device(query);
  const int64_t queries = query.size(0), clouds = query_offsets.size(0) - 1;
  const Tensor index = empty({queries, k}, ScalarType::Long, query), distance2 = empty({queries, k}, ScalarType::Float, query);
  auto launch = [&](auto kernel) {
    launch_rows(kernel, queries, THREADS, device.stream(), data<float>(query), data<float>(points), queries, k, data<int64_t>(query_offsets),
                data<int64_t>(point_offsets), clouds, mutable_data<int64_t>(index), mutable_data<float>(distance2));
  };
  if (k <= 4) launch(knn_kernel<4>);
  else if (k <= 16) launch(knn_kernel<16>);
  else if (k <= 64) launch(knn_kernel<64>);
  else launch(knn_kernel<0>);
  return {index, distance2};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) { m.impl("knn", TORCH_BOX(&suite3d::knn)); }
