// Nearest neighbours in both directions: trees over large clouds, a scan of small ones.
#include "chamfer/chamfer_kernel.h"
#include "geometry/tree.h"

namespace suite3d {

std::tuple<Tensor, Tensor, Tensor, Tensor> chamfer(const Tensor& a_any, const Tensor& b_any, const Tensor& a_offsets_any,
                                                   const Tensor& b_offsets_any) {
  const Tensor a = as_contiguous(a_any), b = as_contiguous(b_any);
  const Tensor a_offsets = as_contiguous(a_offsets_any), b_offsets = as_contiguous(b_offsets_any);
  NearestKernel* kernel = any::nearest_job;
#ifdef SUITE3D_X86
  kernel = isa() == Isa::avx512 ? avx512::nearest_job : isa() == Isa::avx2 ? avx2::nearest_job : kernel;
#endif
  const CloudPairs clouds(a, b, a_offsets, b_offsets, true);
  auto nearest = [&](const Tensor& from, bool back) {
    const Tensor index = empty({from.size(0)}, ScalarType::Long, from), distance2 = empty({from.size(0)}, ScalarType::Float, from);
    int64_t* rows = mutable_data<int64_t>(index);
    float* distances = mutable_data<float>(distance2);
    std::fill(rows, rows + from.size(0), int64_t{-1});
    std::fill(distances, distances + from.size(0), INFINITY);
    clouds.search(back, [&](const SearchJob& job) { kernel(job, rows, distances); });
    return std::make_pair(distance2, index);
  };
  const auto ab = nearest(a, false), ba = nearest(b, true);
  return {ab.first, ba.first, ab.second, ba.second};
}

// Both gradients of the distances; rows are added in their order.
std::tuple<Tensor, Tensor> chamfer_backward(const Tensor& grad_ab_any, const Tensor& grad_ba_any, const Tensor& a_any, const Tensor& b_any,
                                            const Tensor& index_ab_any, const Tensor& index_ba_any) {
  const Tensor a = as_contiguous(a_any), b = as_contiguous(b_any);
  const Tensor grad_a = empty({a.size(0), 3}, ScalarType::Float, a), grad_b = empty({b.size(0), 3}, ScalarType::Float, b);
  float *to_a = mutable_data<float>(grad_a), *to_b = mutable_data<float>(grad_b);
  std::fill(to_a, to_a + 3 * a.size(0), 0.f);
  std::fill(to_b, to_b + 3 * b.size(0), 0.f);
  auto add = [](const Tensor& from, const Tensor& to, const Tensor& index_any, const Tensor& grad_any, float* to_from, float* to_to) {
    const Tensor index = as_contiguous(index_any), grad = as_contiguous(grad_any);
    const float *p = data<float>(from), *q = data<float>(to), *weight = data<float>(grad);
    const int64_t* nearest = data<int64_t>(index);
    SUITE3D_CHECK(index.numel() == from.size(0) && grad.numel() == from.size(0), "index and gradient must have one entry for each point");
    for (int64_t i = 0; i < from.size(0); ++i) {
      const int64_t j = nearest[i];
      if (j < 0) continue;
      SUITE3D_CHECK(j < to.size(0), "index must hold rows of the other cloud");
      for (int axis = 0; axis < 3; ++axis) {
        const float edge = 2 * weight[i] * (p[3 * i + axis] - q[3 * j + axis]);
        to_from[3 * i + axis] += edge;
        to_to[3 * j + axis] -= edge;
      }
    }
  };
  add(a, b, index_ab_any, grad_ab_any, to_a, to_b);
  add(b, a, index_ba_any, grad_ba_any, to_b, to_a);
  return {grad_a, grad_b};
}

}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("chamfer", TORCH_BOX(&suite3d::chamfer));
  m.impl("chamfer_backward", TORCH_BOX(&suite3d::chamfer_backward));
}
