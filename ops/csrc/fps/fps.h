// Furthest point sampling of one cloud; one copy for each instruction set.
#pragma once

#include <cstdint>

namespace suite3d {

constexpr int BUCKET = 64;  // points of a leaf of the bucket variant

// Points by axis, padded to whole packs of 16; `nearest` starts at infinity, at -1 in the padding. `chosen` receives local rows.
struct ScanCloud {
  const float* xyz[3];
  float* nearest;
  int64_t padded;
};

// Points along a curve in leaves of BUCKET (padding: nearest -1), boxes and furthest distances of the leaves and of groups of 16 leaves,
// all padded to whole packs (padding: furthest -1). `row` is the local row of a slot.
struct BucketCloud {
  const float* xyz[3];
  float* nearest;
  const int32_t* row;
  int64_t leaves, groups;  // padded
  const float* leaf_lower[3];
  const float* leaf_upper[3];
  const float* group_lower[3];
  const float* group_upper[3];
  float* leaf_furthest;
  float* group_furthest;
};

using FpsScan = void(const ScanCloud& cloud, int64_t start, int64_t count, int64_t* chosen);
using FpsBuckets = void(const BucketCloud& cloud, int64_t start_slot, int64_t count, int64_t* chosen);

namespace any { FpsScan fps_scan; FpsBuckets fps_buckets; }
namespace avx2 { FpsScan fps_scan; FpsBuckets fps_buckets; }
namespace avx512 { FpsScan fps_scan; FpsBuckets fps_buckets; }

}  // namespace suite3d
