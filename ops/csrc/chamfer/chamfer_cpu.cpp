// Nearest neighbours in both directions: trees over large clouds, a scan of small ones.
#include "chamfer/chamfer_kernel.h"
#include "geometry/tree.h"

namespace suite3d {

std::tuple<Tensor, Tensor, Tensor, Tensor> chamfer(const Tensor& a_any, const Tensor& b_any, const Tensor& a_offsets_any, const Tensor& b_offsets_any) {
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

}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) { m.impl("chamfer", TORCH_BOX(&suite3d::chamfer)); }
