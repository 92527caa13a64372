#pragma once

#include "fps/fps.h"
#include "geometry/simd.h"

namespace {

struct Centre { F16 x, y, z; };

SUITE3D_INLINE F16 lower_nearest(const float* const* xyz, float* nearest, int64_t at, const Centre& centre) {
  const F16 distance = square_sum(load(xyz[0] + at) - centre.x, load(xyz[1] + at) - centre.y, load(xyz[2] + at) - centre.z);
  const F16 least = min(load(nearest + at), distance);
  store(nearest + at, least);
  return least;
}

}  // namespace

namespace suite3d {
namespace SUITE3D_LEVEL {

void fps_scan(const ScanCloud& cloud, int64_t start, int64_t count, int64_t* chosen) {
  constexpr int64_t CHUNK = 512;
  int64_t current = start;
  for (int64_t step = 0; step < count; ++step) {
    chosen[step] = current;
    if (step + 1 == count) return;
    const Centre centre{set1(cloud.xyz[0][current]), set1(cloud.xyz[1][current]), set1(cloud.xyz[2][current])};
    float furthest = -1.f;
    int64_t chunk = 0;
    for (int64_t first = 0; first < cloud.padded; first += CHUNK) {
      const int64_t last = first + CHUNK < cloud.padded ? first + CHUNK : cloud.padded;
      F16 most[2] = {set1(-1.f), set1(-1.f)};
      int64_t i = first;
      for (; i + 32 <= last; i += 32) {
        most[0] = max(most[0], lower_nearest(cloud.xyz, cloud.nearest, i, centre));
        most[1] = max(most[1], lower_nearest(cloud.xyz, cloud.nearest, i + 16, centre));
      }
      if (i < last) most[0] = max(most[0], lower_nearest(cloud.xyz, cloud.nearest, i, centre));
      const float here = reduce_max(max(most[0], most[1]));
      if (here > furthest) furthest = here, chunk = first;  // the first chunk, and below the first point, of those equally far
    }
    for (int64_t i = chunk;; i += 16) {
      const uint32_t hits = bits(load(cloud.nearest + i) == set1(furthest));
      if (!hits) continue;
      current = i + __builtin_ctz(hits);
      break;
    }
  }
}

void fps_buckets(const BucketCloud& cloud, int64_t start_slot, int64_t count, int64_t* chosen) {
  int64_t current = start_slot;
  for (int64_t step = 0; step < count; ++step) {
    chosen[step] = cloud.row[current];
    if (step + 1 == count) return;
    const float point[3] = {cloud.xyz[0][current], cloud.xyz[1][current], cloud.xyz[2][current]};
    const Centre centre{set1(point[0]), set1(point[1]), set1(point[2])};
    F16 most = set1(-1.f);
    for (int64_t block = 0; block < cloud.groups; block += 16) {
      // A box no nearer than the furthest distance inside it holds no point that the new sample comes closer to.
      uint32_t groups = bits(box_distance(cloud.group_lower, cloud.group_upper, block, point, point) < load(cloud.group_furthest + block));
      for (; groups; groups &= groups - 1) {
        const int64_t group = block + __builtin_ctz(groups);
        uint32_t leaves = bits(box_distance(cloud.leaf_lower, cloud.leaf_upper, group * 16, point, point) < load(cloud.leaf_furthest + group * 16));
        if (!leaves) continue;
        for (; leaves; leaves &= leaves - 1) {
          const int64_t leaf = group * 16 + __builtin_ctz(leaves);
          F16 furthest[2] = {set1(-1.f), set1(-1.f)};
          for (int64_t i = leaf * BUCKET; i < (leaf + 1) * BUCKET; i += 32) {
            furthest[0] = max(furthest[0], lower_nearest(cloud.xyz, cloud.nearest, i, centre));
            furthest[1] = max(furthest[1], lower_nearest(cloud.xyz, cloud.nearest, i + 16, centre));
          }
          cloud.leaf_furthest[leaf] = reduce_max(max(furthest[0], furthest[1]));
        }
        cloud.group_furthest[group] = reduce_max(load(cloud.leaf_furthest + group * 16));
      }
      most = max(most, load(cloud.group_furthest + block));
    }
    const F16 wanted = set1(reduce_max(most));
    int32_t lowest = 0x7fffffff;  // row; equally far points may lie in several leaves
    for (int64_t block = 0; block < cloud.groups; block += 16) {
      for (uint32_t groups = bits(load(cloud.group_furthest + block) == wanted); groups; groups &= groups - 1) {
        const int64_t group = block + __builtin_ctz(groups);
        for (uint32_t leaves = bits(load(cloud.leaf_furthest + group * 16) == wanted); leaves; leaves &= leaves - 1) {
          const int64_t leaf = group * 16 + __builtin_ctz(leaves);
          for (int64_t i = leaf * BUCKET; i < (leaf + 1) * BUCKET; i += 16)
            for (uint32_t hits = bits(load(cloud.nearest + i) == wanted); hits; hits &= hits - 1) {
              const int64_t slot = i + __builtin_ctz(hits);
              if (cloud.row[slot] < lowest) lowest = cloud.row[slot], current = slot;
            }
        }
      }
    }
  }
}

}  // namespace SUITE3D_LEVEL
}  // namespace suite3d
