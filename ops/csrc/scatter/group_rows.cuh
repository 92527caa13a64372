// Rows by what they point to: a stable radix sort of as many bits as the targets have.
#pragma once

#include "common_cuda.cuh"

namespace suite3d {

// Rows [start[j], start[j + 1]) of `row` point to target j, in ascending order.
struct GroupedRows {
  Buffer<int32_t> row;
  Buffer<int64_t> start;
};

// target_of(i) for rows i in [0, count); what is outside of [0, targets) belongs to no group.
template <class F>
GroupedRows group_rows(int64_t count, int64_t targets, const Tensor& like, cudaStream_t stream, F target_of) {
  SUITE3D_CHECK(count <= INT32_MAX && targets < UINT32_MAX, "more than 2^31 - 1 rows to group");
  const GroupedRows groups{{count, like}, {targets + 1, like}};
  const Buffer<uint32_t> target(count, like), sorted(count, like);
  const Buffer<int32_t> iota(count, like);
  for_each(count, stream, [=, target = target.get(), iota = iota.get()] __device__(int64_t i) {
    const int64_t j = target_of(i);
    target[i] = static_cast<uint32_t>(j < 0 || j >= targets ? targets : j);
    iota[i] = static_cast<int32_t>(i);
  });
  sort_pairs(target.get(), sorted.get(), iota.get(), groups.row.get(), count, std::max(1, bit_width(targets + 1)), like, stream);
  for_each(targets + 1, stream, [=, sorted = sorted.get(), start = groups.start.get()] __device__(int64_t j) {
    start[j] = lower_bound(sorted, count, static_cast<uint32_t>(j));
  });
  return groups;
}

}  // namespace suite3d
