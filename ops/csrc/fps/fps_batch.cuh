// What the kernels of furthest point sampling share: the batch, and the choice of the furthest point of a block.
#pragma once

#include <climits>

#include "geometry/device.cuh"

namespace suite3d {

constexpr unsigned ALL_LANES = 0xffffffffu;

struct Batch {
  const float* xyz;
  const int64_t *ends, *first, *out_ends;  // out_ends[b]: samples before and with cloud b
  const int64_t* wanted;
  int64_t* chosen;
};

// One cloud of a batch, its rows counted from 0.
struct Cloud {
  const float* points;
  int64_t begin, size, start, count;
  int64_t* chosen;

  __device__ Cloud(const Batch& batch, int64_t b)
      : points(batch.xyz + 3 * batch.ends[b]), begin(batch.ends[b]), size(batch.ends[b + 1] - begin), start(batch.first[b] - begin),
        count(batch.wanted[b]), chosen(batch.chosen + batch.out_ends[b] - count) {}
};

// How far a point is from the samples (bits of a squared distance: not negative, so they are in the order of the integers; negative for
// no point at all), and its row.
struct Furthest {
  int distance, row;
};

// The furthest of the warp, in every lane; of equals the lowest row.
__device__ inline Furthest warp_furthest(Furthest mine) {
  const int distance = __reduce_max_sync(ALL_LANES, mine.distance);
  return {distance, __reduce_min_sync(ALL_LANES, mine.distance == distance ? mine.row : INT_MAX)};
}

}  // namespace suite3d
