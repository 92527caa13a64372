// Ball query: the first k rows nearer than the radius, in row order.
#include "ball_query/ball_query_kernel.h"
#include "geometry/tree.h"

namespace suite3d {

std::tuple<Tensor, Tensor> ball_query(const Tensor& query_any, const Tensor& points_any, double radius, int64_t k, const Tensor& query_offsets_any,
                                      const Tensor& point_offsets_any) {
  const Tensor query = as_contiguous(query_any), points = as_contiguous(points_any);
  const Tensor query_offsets = as_contiguous(query_offsets_any), point_offsets = as_contiguous(point_offsets_any);
  SUITE3D_CHECK(k >= 1, "k must be at least 1");
  const Tensor index = empty({query.size(0), k}, ScalarType::Long, query), count = empty({query.size(0)}, ScalarType::Long, query);
  int64_t *rows = mutable_data<int64_t>(index), *counts = mutable_data<int64_t>(count);
  parallel_for(query.size(0) * k, 1 << 16, [&](int64_t begin, int64_t end) { std::fill(rows + begin, rows + end, int64_t{-1}); });
  std::fill(counts, counts + query.size(0), int64_t{0});
  const CloudPairs clouds(query, points, query_offsets, point_offsets, false);
  BallKernel* kernel = any::ball_job;
#ifdef SUITE3D_X86
  kernel = isa() == Isa::avx512 ? avx512::ball_job : isa() == Isa::avx2 ? avx2::ball_job : kernel;
#endif
  const float rounded = static_cast<float>(radius);
  clouds.search(false, [&](const SearchJob& job) {
    Scratch<double> lists(16 * k);
    kernel(job, rounded * rounded, k, lists.get(), rows, counts);
  });
  return {index, count};
}

}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) { m.impl("ball_query", TORCH_BOX(&suite3d::ball_query)); }
