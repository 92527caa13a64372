// Neighbours of each query as rows of a dense block; their gradients by a stable sort of the slots by row, without atomics: the same
// every time.
#include "geometry/device.cuh"
#include "scatter/group_rows.cuh"

namespace suite3d {
namespace {

__device__ inline int64_t row_of(const int64_t* slots, int64_t slot) { return slots[slot] < 0 ? slots[0] : slots[slot]; }

template <class T>
void place_rows(const Tensor& query, const Tensor& points, const Tensor& feats, const Tensor& index, const Tensor& out, cudaStream_t stream) {
  const int64_t slots = index.size(1), held = points.size(0), channels = feats.size(1), width = 3 + channels;
  for_each(index.size(0) * slots * width, stream,
           [=, from = data<float>(query), xyz = data<float>(points), feat = data<T>(feats), rows = data<int64_t>(index),
            to = mutable_data<T>(out)] __device__(int64_t i) {
             const int64_t place = i / width, c = i % width, q = place / slots, row = row_of(rows + q * slots, place % slots);
             if (row < 0 || row >= held)
               to[i] = 0;
             else
               to[i] = c < 3 ? static_cast<T>(__fsub_rn(xyz[3 * row + c], from[3 * q + c])) : feat[row * channels + c - 3];
           });
}

Tensor group_points(Tensor query, Tensor points, Tensor feats, Tensor index) {
  query = as_contiguous(query), points = as_contiguous(points), feats = as_contiguous(feats), index = as_contiguous(index);
  const OnDevice device(feats);
  SUITE3D_CHECK(index.size(1) >= 1, "group_points: no slots");
  const Tensor out = empty({index.size(0), index.size(1), 3 + feats.size(1)}, feats.scalar_type(), feats);
  if (feats.scalar_type() == ScalarType::Double)
    place_rows<double>(query, points, feats, index, out, device.stream());
  else
    place_rows<float>(query, points, feats, index, out, device.stream());
  return out;
}

template <class T>
void sum_slots(const Tensor& grad, const int64_t* start, const int32_t* slot, const Tensor& out, cudaStream_t stream) {
  const int64_t channels = out.size(1);
  for_each(out.size(0) * channels, stream, [=, from = data<T>(grad), to = mutable_data<T>(out)] __device__(int64_t i) {
    const int64_t row = i / channels, c = i % channels;
    T sum = 0;
    for (int64_t at = start[row]; at < start[row + 1]; ++at) sum += from[static_cast<int64_t>(slot[at]) * (3 + channels) + 3 + c];
    to[i] = sum;
  });
}

Tensor group_points_backward(Tensor grad, Tensor index, int64_t points) {
  grad = as_contiguous(grad), index = as_contiguous(index);
  const OnDevice device(grad);
  const cudaStream_t stream = device.stream();
  const int64_t slots = index.size(1), count = index.size(0) * slots;
  const GroupedRows groups = group_rows(count, points, grad, stream, [=, rows = data<int64_t>(index)] __device__(int64_t i) {
    return row_of(rows + i / slots * slots, i % slots);
  });
  const Tensor out = empty({points, grad.size(2) - 3}, grad.scalar_type(), grad);
  if (grad.scalar_type() == ScalarType::Double)
    sum_slots<double>(grad, groups.start.get(), groups.row.get(), out, stream);
  else
    sum_slots<float>(grad, groups.start.get(), groups.row.get(), out, stream);
  return out;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("group_points", TORCH_BOX(&suite3d::group_points));
  m.impl("group_points_backward", TORCH_BOX(&suite3d::group_points_backward));
}
