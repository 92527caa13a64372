// Nearest neighbours in both directions; gradients summed in row order after a sort, without atomics.
#include "chamfer/nearest.cuh"
#include "scatter/group_rows.cuh"

namespace suite3d {
namespace {

struct Job {
  Side a, b;
  int64_t rows_a, rows_b, clouds;
  cudaStream_t stream;
};

void search_groups(const Job& job) {
  const int64_t packs = pack_room(job.rows_a, job.clouds, LEAF), all = packs + pack_room(job.rows_b, job.clouds, LEAF);
  launch_rows(nearest_of_groups, 32 * all, GROUPERS, job.stream, job.a, job.b, job.clouds, packs, all);
}

void search_pairs(const Job& job, const Tensor& like) {
  const int64_t rows = job.rows_a + job.rows_b, blocks = pack_room(job.rows_a, job.clouds, PAIRERS * HELD);
  const int64_t tiles = job.rows_b / job.clouds / COLUMNS + 1, most = std::max<int64_t>(1, 2048 / std::max<int64_t>(blocks, 1));
  const Buffer<uint64_t> keys(rows, like);
  SUITE3D_CUDA(cudaMemsetAsync(keys.get(), 0xff, sizeof(uint64_t) * rows, job.stream));  // beyond NO_KEY: nothing yet
  if (blocks > 0) {
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(std::min({tiles, most, int64_t{65535}})));
    nearest_of_pairs<<<grid, PAIRERS, 0, job.stream>>>(job.a, job.b, job.clouds, keys.get(), keys.get() + job.rows_a);
    SUITE3D_CUDA(cudaGetLastError());
  }
  for_each(rows, job.stream, [=, a = job.a.out, b = job.b.out, rows_a = job.rows_a, keys = keys.get()] __device__(int64_t i) {
    if (i < rows_a) a.write(i, keys[i]);
    else b.write(i - rows_a, keys[i]);
  });
}

void search_leaves(const Job& job, const Tensor& a, const Tensor& b, const Tensor& a_offsets, const Tensor& b_offsets) {
  const Leaves leaves_a(a, a_offsets, job.stream), leaves_b(b, b_offsets, job.stream);
  const auto launch = [&](const Leaves& from, const Leaves& to, const Side& side, int64_t rows) {
    const int64_t packs = pack_room(rows, job.clouds, LEAF);
    launch_rows(nearest_of_leaves, 32 * packs, GROUPERS, job.stream, from.view(), to.view(), side.xyz, packs, side.out);
  };
  launch(leaves_a, leaves_b, job.a, job.rows_a);
  launch(leaves_b, leaves_a, job.b, job.rows_b);
}

// Mean sizes decide, as in search_cuda.cuh: those of single clouds are known on the device only.
std::tuple<Tensor, Tensor, Tensor, Tensor> chamfer(Tensor a, Tensor b, Tensor a_offsets, Tensor b_offsets) {
  a = as_contiguous(a), b = as_contiguous(b), a_offsets = as_contiguous(a_offsets), b_offsets = as_contiguous(b_offsets);
  const OnDevice device(a);
  const auto results = [](const Tensor& side) {
    return std::make_pair(empty({side.size(0)}, ScalarType::Float, side), empty({side.size(0)}, ScalarType::Long, side));
  };
  const auto ab = results(a), ba = results(b);
  const auto side = [](const Tensor& xyz, const Tensor& offsets, const std::pair<Tensor, Tensor>& to) {
    return Side{data<float>(xyz), data<int64_t>(offsets), {mutable_data<int64_t>(to.second), mutable_data<float>(to.first)}};
  };
  const int64_t clouds = a_offsets.size(0) - 1;
  const Job job{side(a, a_offsets, ab), side(b, b_offsets, ba), a.size(0), b.size(0), clouds, device.stream()};
  const double batch = static_cast<double>(std::max<int64_t>(clouds, 1)), size_a = job.rows_a / batch, size_b = job.rows_b / batch;
  if (std::max(size_a, size_b) <= 256)
    search_groups(job);
  else if (std::max(size_a, size_b) <= 1024 || size_a * size_b * batch <= 1 << 27)
    search_pairs(job, a);
  else
    search_leaves(job, a, b, a_offsets, b_offsets);
  return {ab.first, ba.first, ab.second, ba.second};
}

// Gradient of one side: 2 g (p - q) of its own edges, less those of the edges that end here.
Tensor gradient_of(const Tensor& from, const Tensor& to, const Tensor& own_index, const Tensor& own_grad, const Tensor& other_index,
                   const Tensor& other_grad, cudaStream_t stream) {
  const GroupedRows edges = group_rows(to.size(0), from.size(0), from, stream,
                                       [nearest = data<int64_t>(other_index)] __device__(int64_t i) { return nearest[i]; });
  const Tensor result = empty({from.size(0), 3}, ScalarType::Float, from);
  for_each(from.size(0) * 3, stream,
           [p = data<float>(from), q = data<float>(to), own = data<int64_t>(own_index), g = data<float>(own_grad), h = data<float>(other_grad),
            edge = edges.row.get(), start = edges.start.get(), out = mutable_data<float>(result)] __device__(int64_t at) {
             const int64_t i = at / 3, axis = at % 3;
             float sum = own[i] >= 0 ? 2 * g[i] * (p[at] - q[3 * own[i] + axis]) : 0.f;
             for (int64_t e = start[i]; e < start[i + 1]; ++e) {
               const int64_t j = edge[e];
               sum -= 2 * h[j] * (q[3 * j + axis] - p[at]);
             }
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
