// Nearest neighbours in both directions, one thread a point; gradients summed in row order after a sort, without atomics.
#include "geometry/device.cuh"

namespace suite3d {
namespace {

constexpr int THREADS = 128;

__global__ void __launch_bounds__(THREADS) nearest_kernel(const float* query, const float* points, int64_t queries, const int64_t* query_ends,
                                                          const int64_t* point_ends, int64_t clouds, int64_t* index, float* distance2) {
  const int64_t i = blockIdx.x * int64_t{THREADS} + threadIdx.x;
  if (i >= queries) return;
  const int64_t b = cloud_of(query_ends, clouds, i);
  const float x = query[3 * i], y = query[3 * i + 1], z = query[3 * i + 2];
  float best = INFINITY;
  int64_t row = -1;
  for (int64_t j = point_ends[b]; j < point_ends[b + 1]; ++j) {
    const float distance = squared_distance(points + 3 * j, x, y, z);
    if (distance < best) best = distance, row = j;
  }
  index[i] = row;
  distance2[i] = best;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> chamfer(Tensor a, Tensor b, Tensor a_offsets, Tensor b_offsets) {
  a = as_contiguous(a), b = as_contiguous(b), a_offsets = as_contiguous(a_offsets), b_offsets = as_contiguous(b_offsets);
  const OnDevice device(a);
  auto nearest = [&](const Tensor& from, const Tensor& to, const Tensor& from_ends, const Tensor& to_ends) {
    const Tensor index = empty({from.size(0)}, ScalarType::Long, from), distance2 = empty({from.size(0)}, ScalarType::Float, from);
    launch_rows(nearest_kernel, from.size(0), THREADS, device.stream(), data<float>(from), data<float>(to), from.size(0), data<int64_t>(from_ends),
                data<int64_t>(to_ends), from_ends.size(0) - 1, mutable_data<int64_t>(index), mutable_data<float>(distance2));
    return std::make_pair(distance2, index);
  };
  const auto ab = nearest(a, b, a_offsets, b_offsets), ba = nearest(b, a, b_offsets, a_offsets);
  return {ab.first, ba.first, ab.second, ba.second};
}

// Gradient of one side: 2 g (p - q) of its own edges, less those of the edges that end here.
Tensor gradient_of(const Tensor& from, const Tensor& to, const Tensor& own_index, const Tensor& own_grad, const Tensor& other_index,
                   const Tensor& other_grad, cudaStream_t stream) {
  const int64_t edges = to.size(0);
  const Buffer<uint64_t> sorted(edges, from);
  const Buffer<int64_t> iota(edges, from), edge(edges, from);
  for_each(edges, stream, [iota = iota.get()] __device__(int64_t i) { iota[i] = i; });
  const uint64_t* targets = reinterpret_cast<const uint64_t*>(data<int64_t>(other_index));  // -1 comes last
  sort_pairs(targets, sorted.get(), iota.get(), edge.get(), edges, 64, from, stream);
  const Tensor result = empty({from.size(0), 3}, ScalarType::Float, from);
  for_each(from.size(0) * 3, stream,
           [p = data<float>(from), q = data<float>(to), own = data<int64_t>(own_index), g = data<float>(own_grad), h = data<float>(other_grad),
            sorted = sorted.get(), edge = edge.get(), edges, out = mutable_data<float>(result)] __device__(int64_t at) {
             const int64_t i = at / 3, axis = at % 3;
             float sum = own[i] >= 0 ? 2 * g[i] * (p[at] - q[3 * own[i] + axis]) : 0.f;
             for (int64_t e = lower_bound(sorted, edges, static_cast<uint64_t>(i)); e < edges && sorted[e] == static_cast<uint64_t>(i); ++e)
               sum -= 2 * h[edge[e]] * (q[3 * edge[e] + axis] - p[at]);
             out[at] = sum;
           });
  return result;
}

std::tuple<Tensor, Tensor> chamfer_backward(Tensor grad_ab, Tensor grad_ba, Tensor a, Tensor b, Tensor index_ab, Tensor index_ba) {
  a = as_contiguous(a), b = as_contiguous(b), index_ab = as_contiguous(index_ab), index_ba = as_contiguous(index_ba);
  grad_ab = as_contiguous(grad_ab), grad_ba = as_contiguous(grad_ba);
  const OnDevice device(a);
  return {gradient_of(a, b, index_ab, grad_ab, index_ba, grad_ba, device.stream()),
          gradient_of(b, a, index_ba, grad_ba, index_ab, grad_ab, device.stream())};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("chamfer", TORCH_BOX(&suite3d::chamfer));
  m.impl("chamfer_backward", TORCH_BOX(&suite3d::chamfer_backward));
}
