// Ragged clouds cut into packs of consecutive rows, each pack inside one cloud, without knowing on the host how large the clouds are.
#pragma once

#include "geometry/device.cuh"

namespace suite3d {

constexpr unsigned WARP = 0xffffffffu;  // all lanes take part

// Rows [first, last) of one cloud; none where first == last.
struct Pack {
  int64_t cloud, first, last;
};

// Number of cloud b's first pack. Rounding up and one more a cloud leaves each of them room for its own, and some numbers unused.
SUITE3D_HOST_DEVICE inline int64_t first_pack(int64_t begin, int64_t cloud, int64_t size) { return (begin + size - 1) / size + cloud; }

// Numbers [0, room) hold every pack.
inline int64_t pack_room(int64_t rows, int64_t clouds, int64_t size) { return rows == 0 ? 0 : first_pack(rows, clouds, size); }

__device__ inline Pack pack_of(const int64_t* ends, int64_t clouds, int64_t size, int64_t number) {
  int64_t low = 0, above = clouds;  // the last cloud whose first pack is not beyond `number`
  while (above - low > 1) {
    const int64_t half = (low + above) / 2;
    if (first_pack(ends[half], half, size) <= number)
      low = half;
    else
      above = half;
  }
  const int64_t end = ends[low + 1], first = ends[low] + (number - first_pack(ends[low], low, size)) * size;
  return {low, first < end ? first : end, first + size < end ? first + size : end};
}

// Floats as integers of the same order.
__device__ inline unsigned ordered(float value) {
  const unsigned bits = __float_as_uint(value);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
__device__ inline float unordered(unsigned code) { return __uint_as_float(code ^ (code >> 31 ? 0x80000000u : 0xffffffffu)); }

__device__ inline float warp_min(float value) { return unordered(__reduce_min_sync(WARP, ordered(value))); }
__device__ inline float warp_max(float value) { return unordered(__reduce_max_sync(WARP, ordered(value))); }

__device__ inline bool is_finite(float x, float y, float z) { return isfinite(x) && isfinite(y) && isfinite(z); }

}  // namespace suite3d
