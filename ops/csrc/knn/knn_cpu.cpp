// Exact k nearest neighbours: sixteen queries at a time down a tree of boxes, equal distances by row.
#include "geometry/tree.h"
#include "knn/knn_kernel.h"

namespace suite3d {

std::tuple<Tensor, Tensor> knn(const Tensor& query_any, const Tensor& points_any, int64_t k, const Tensor& query_offsets_any,
                               const Tensor& point_offsets_any) {
  const Tensor query = as_contiguous(query_any), points = as_contiguous(points_any);
  const Tensor query_offsets = as_contiguous(query_offsets_any), point_offsets = as_contiguous(point_offsets_any);
  SUITE3D_CHECK(k >= 1, "k must be at least 1");
  const Tensor index = empty({query.size(0), k}, ScalarType::Long, query), distance2 = empty({query.size(0), k}, ScalarType::Float, query);
  int64_t* rows = mutable_data<int64_t>(index);
  float* distances = mutable_data<float>(distance2);
  parallel_for(query.size(0) * k, 1 << 16, [&](int64_t begin, int64_t end) {  // queries that are not finite keep this
    std::fill(rows + begin, rows + end, int64_t{-1});
    std::fill(distances + begin, distances + end, INFINITY);
  });
  const CloudPairs clouds(query, points, query_offsets, point_offsets, false);
  KnnKernel* kernel = any::knn_job;
#ifdef SUITE3D_X86
  kernel = isa() == Isa::avx512 ? avx512::knn_job : isa() == Isa::avx2 ? avx2::knn_job : kernel;
#endif
  clouds.search(false, [&](const SearchJob& job) {
    Scratch<double> lists(16 * k);
    kernel(job, k, lists.get(), rows, distances);
  });
  return {index, distance2};
}

}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) { m.impl("knn", TORCH_BOX(&suite3d::knn)); }
