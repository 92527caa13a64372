#pragma once

#include "geometry/simd.h"
#include "points_in_boxes/points_in_boxes.h"

namespace {

using suite3d::UprightTable;

SUITE3D_INLINE uint32_t inside(const UprightTable& boxes, int64_t j, F16 x, F16 y, F16 z) {
  const float* const* f = boxes.fields;
  const F16 dx = x - set1(f[0][j]), dy = y - set1(f[1][j]), dz = z - set1(f[2][j]), cosine = set1(f[6][j]), sine = set1(f[7][j]);
  const F16 along = dx * cosine + dy * sine, across = dy * cosine - dx * sine;
  return bits((abs(along) <= set1(f[3][j])) & (abs(across) <= set1(f[4][j])) & (abs(dz) <= set1(f[5][j])));
}

// Boxes whose upright box meets the one around the points; NaN points do not count.
SUITE3D_INLINE int64_t near_boxes(const UprightTable& boxes, const float* const* xyz, int64_t points, int32_t* near) {
  F16 low[3], high[3];
  for (int axis = 0; axis < 3; ++axis) {
    low[axis] = set1(FLOAT_MAX), high[axis] = set1(-FLOAT_MAX);
    for (int64_t i = 0; i < points; i += 16) low[axis] = min(load(xyz[axis] + i), low[axis]), high[axis] = max(load(xyz[axis] + i), high[axis]);
    low[axis] = set1(reduce_min(low[axis])), high[axis] = set1(reduce_max(high[axis]));
  }
  int64_t count = 0;
  for (int64_t j = 0; j < boxes.count; j += 16) {
    const F16 reach = load(boxes.reach + j), height = load(boxes.fields[5] + j);
    const F16 x = load(boxes.fields[0] + j), y = load(boxes.fields[1] + j), z = load(boxes.fields[2] + j);
    const M16 sides = (low[0] - x <= reach) & (x - high[0] <= reach) & (low[1] - y <= reach) & (y - high[1] <= reach);
    const M16 meets = sides & (low[2] - z <= height) & (z - high[2] <= height);
    for (uint32_t hits = bits(meets); hits; hits &= hits - 1) near[count++] = static_cast<int32_t>(j + __builtin_ctz(hits));
  }
  return count;
}

}  // namespace

namespace suite3d {
namespace SUITE3D_LEVEL {

void first_box(const UprightTable& boxes, const float* const* xyz, int64_t points, int32_t* near, int32_t* first) {
  const int64_t count = near_boxes(boxes, xyz, points, near);
  for (int64_t at = 0; at < points; at += 16) {
    const F16 x = load(xyz[0] + at), y = load(xyz[1] + at), z = load(xyz[2] + at);
    store(first + at, set1(-1));
    uint32_t open = 0xffff;
    for (int64_t i = 0; i < count && open; ++i) {
      uint32_t hits = inside(boxes, near[i], x, y, z) & open;
      open &= ~hits;
      for (; hits; hits &= hits - 1) first[at + __builtin_ctz(hits)] = near[i];
    }
  }
}

void box_mask(const UprightTable& boxes, const float* const* xyz, int64_t points, int32_t* near, uint8_t* mask, int64_t stride) {
  const int64_t count = near_boxes(boxes, xyz, points, near);
  for (int64_t at = 0; at < points; at += 16) {
    const F16 x = load(xyz[0] + at), y = load(xyz[1] + at), z = load(xyz[2] + at);
    for (int64_t i = 0; i < count; ++i)
      for (uint32_t hits = inside(boxes, near[i], x, y, z); hits; hits &= hits - 1) mask[near[i] * stride + at + __builtin_ctz(hits)] = 1;
  }
}

}  // namespace SUITE3D_LEVEL
}  // namespace suite3d
