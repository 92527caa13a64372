// Neighbours of each query as rows of a dense block, and the way back of their gradients: each point sums its own, in slot order.
#include "common.h"

namespace suite3d {
namespace {

// Row of a slot: unused ones repeat the first; -1 if that one is unused too.
inline int64_t row_of(const int64_t* slots, int64_t slot) { return slots[slot] < 0 ? slots[0] : slots[slot]; }

template <class T>
void group_rows(const float* query, const float* points, const T* feats, const int64_t* index, int64_t queries, int64_t slots, int64_t points_held,
                int64_t channels, T* out) {
  const int64_t width = 3 + channels;
  std::atomic<bool> good{true};
  parallel_for(queries, std::max<int64_t>(1, 32768 / (slots * width)), [&](int64_t begin, int64_t end) {
    bool fine = true;
    for (int64_t q = begin; q < end; ++q)
      for (int64_t slot = 0; slot < slots; ++slot) {
        T* to = out + (q * slots + slot) * width;
        const int64_t row = row_of(index + q * slots, slot);
        const bool inside = row < points_held && index[q * slots + slot] >= -1;
        fine &= inside;
        if (!inside || row < 0) {
          std::fill(to, to + width, T(0));
          continue;
        }
        for (int axis = 0; axis < 3; ++axis) to[axis] = static_cast<T>(points[3 * row + axis] - query[3 * q + axis]);
        std::copy_n(feats + row * channels, channels, to + 3);
      }
    if (!fine) good = false;
  });
  SUITE3D_CHECK(good, "group_points: an index is outside [-1, ", points_held, ")");
}

Tensor group_points(const Tensor& query_any, const Tensor& points_any, const Tensor& feats_any, const Tensor& index_any) {
  const Tensor query = as_contiguous(query_any), points = as_contiguous(points_any), feats = as_contiguous(feats_any);
  const Tensor index = as_contiguous(index_any);
  const int64_t queries = index.size(0), slots = index.size(1), channels = feats.size(1);
  SUITE3D_CHECK(slots >= 1, "group_points: no slots");
  const Tensor out = empty({queries, slots, 3 + channels}, feats.scalar_type(), feats);
  const float *from = data<float>(query), *xyz = data<float>(points);
  if (feats.scalar_type() == ScalarType::Double)
    group_rows(from, xyz, data<double>(feats), data<int64_t>(index), queries, slots, points.size(0), channels, mutable_data<double>(out));
  else
    group_rows(from, xyz, data<float>(feats), data<int64_t>(index), queries, slots, points.size(0), channels, mutable_data<float>(out));
  return out;
}

template <class T>
void sum_slots(const T* grad, const std::vector<int64_t>& start, const Scratch<int64_t>& slot, int64_t points, int64_t channels, T* out) {
  const int64_t held = start[points], grain = std::max<int64_t>(1, 16384 / (std::max<int64_t>(1, held / std::max<int64_t>(points, 1)) * (channels + 1)));
  parallel_for(points, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* to = out + row * channels;
      std::fill(to, to + channels, T(0));
      for (int64_t at = start[row]; at < start[row + 1]; ++at) {
        const T* from = grad + slot[at] * (3 + channels) + 3;
        for (int64_t c = 0; c < channels; ++c) to[c] += from[c];
      }
    }
  });
}

// grad is (Q, k, 3 + C); the result (points, C).
Tensor group_points_backward(const Tensor& grad_any, const Tensor& index_any, int64_t points) {
  const Tensor grad = as_contiguous(grad_any), index = as_contiguous(index_any);
  const int64_t queries = index.size(0), slots = index.size(1), channels = grad.size(2) - 3;
  const int64_t* rows = data<int64_t>(index);
  std::vector<int64_t> start(points + 1, 0);  // a counting sort of the slots by their row
  for (int64_t q = 0; q < queries; ++q)
    for (int64_t s = 0; s < slots; ++s) {
      const int64_t row = row_of(rows + q * slots, s);
      SUITE3D_CHECK(row < points, "group_points: index ", row, " of ", points, " points");
      if (row >= 0) ++start[row + 1];
    }
  for (int64_t row = 0; row < points; ++row) start[row + 1] += start[row];
  Scratch<int64_t> slot(start[points]);
  std::vector<int64_t> next(start.begin(), start.end() - 1);
  for (int64_t q = 0; q < queries; ++q)
    for (int64_t s = 0; s < slots; ++s) {
      const int64_t row = row_of(rows + q * slots, s);
      if (row >= 0) slot[next[row]++] = q * slots + s;
    }
  const Tensor out = empty({points, channels}, grad.scalar_type(), grad);
  if (grad.scalar_type() == ScalarType::Double)
    sum_slots(data<double>(grad), start, slot, points, channels, mutable_data<double>(out));
  else
    sum_slots(data<float>(grad), start, slot, points, channels, mutable_data<float>(out));
  return out;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("group_points", TORCH_BOX(&suite3d::group_points));
  m.impl("group_points_backward", TORCH_BOX(&suite3d::group_points_backward));
}
