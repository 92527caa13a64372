#pragma once

#include "box_iou/box_iou.h"
#include "geometry/simd.h"

namespace {

SUITE3D_INLINE D8 clamp(D8 value, D8 low, D8 high) { return min(max(value, low), high); }

// Line integral of x dy along the edge from (x, y) by (dx, dy), both coordinates clamped to the rectangle of half sizes (u, v). The clamped
// edge bends where it meets the lines x = -u, x = u, y = -v, y = v: at most four places, sorted by a small network. max(t, 0) turns the
// 0 / 0 of an edge along one of the lines into 0, where a bend does no harm.
SUITE3D_INLINE D8 edge_integral(D8 x, D8 y, D8 dx, D8 dy, D8 u, D8 v, D8 inverse_dx, D8 inverse_dy) {
  const D8 zero = set8(0.), one = set8(1.), minus_u = zero - u, minus_v = zero - v;
  const D8 a = clamp((minus_u - x) * inverse_dx, zero, one), b = clamp((u - x) * inverse_dx, zero, one);
  const D8 c = clamp((minus_v - y) * inverse_dy, zero, one), d = clamp((v - y) * inverse_dy, zero, one);
  const D8 a0 = min(a, b), a1 = max(a, b), c0 = min(c, d), c1 = max(c, d), m0 = max(a0, c0), m1 = min(a1, c1);
  const D8 bends[5] = {min(a0, c0), min(m0, m1), max(m0, m1), max(a1, c1), one};
  D8 last_x = clamp(x, minus_u, u), last_y = clamp(y, minus_v, v), twice = zero;
  for (int i = 0; i < 5; ++i) {
    const D8 next_x = clamp(x + bends[i] * dx, minus_u, u), next_y = clamp(y + bends[i] * dy, minus_v, v);
    twice = twice + (last_x + next_x) * (next_y - last_y);
    last_x = next_x, last_y = next_y;
  }
  return twice;
}

SUITE3D_INLINE D8 gather(const double* table, const int32_t* rows) {
  double value[8];
  for (int i = 0; i < 8; ++i) value[i] = table[rows[i]];
  return load8(value);
}

}  // namespace

namespace suite3d {
namespace SUITE3D_LEVEL {

int64_t nearby_boxes(const BoxTable& rows, int64_t row, const BoxTable& columns, int32_t* found) {
  const F16 x = set1(rows.centre_x[row]), y = set1(rows.centre_y[row]), radius = set1(rows.radius[row]);
  int64_t count = 0;
  for (int64_t at = 0; at < columns.count; at += 16) {
    const F16 dx = load(columns.centre_x + at) - x, dy = load(columns.centre_y + at) - y, reach = load(columns.radius + at) + radius;
    for (uint32_t hits = bits(dx * dx + dy * dy <= reach * reach); hits; hits &= hits - 1)
      found[count++] = static_cast<int32_t>(at + __builtin_ctz(hits));
  }
  return count;
}

void overlap_areas(const BoxTable& rows, int64_t row, const BoxTable& columns, int32_t* found, int64_t count, double* area) {
  const D8 ax = set8(rows.x[row]), ay = set8(rows.y[row]), u = set8(rows.half_length[row]), v = set8(rows.half_width[row]);
  const D8 ac = set8(rows.cosine[row]), as = set8(rows.sine[row]), zero = set8(0.), two = set8(2.), one = set8(1.);
  for (int64_t i = count; i % 8; ++i) found[i] = found[count - 1];
  for (int64_t at = 0; at < count; at += 8) {
    const int32_t* columns_at = found + at;
    const D8 dx = gather(columns.x, columns_at) - ax, dy = gather(columns.y, columns_at) - ay;
    const D8 bc = gather(columns.cosine, columns_at), bs = gather(columns.sine, columns_at);
    const D8 half_length = gather(columns.half_length, columns_at), half_width = gather(columns.half_width, columns_at);
    const D8 x = dx * ac + dy * as, y = dy * ac - dx * as, c = bc * ac + bs * as, s = bs * ac - bc * as;  // box b in the frame of box a
    const D8 lx = half_length * c, ly = half_length * s, wx = zero - half_width * s, wy = half_width * c;
    const D8 x0 = x + lx + wx, y0 = y + ly + wy, x1 = x - lx + wx, y1 = y - ly + wy;
    const D8 x2 = x - lx - wx, y2 = y - ly - wy, x3 = x + lx - wx, y3 = y + ly - wy;
    const D8 ex = zero - two * lx, ey = zero - two * ly, fx = zero - two * wx, fy = zero - two * wy;  // edges 0-1 and 1-2; the others are opposite
    const D8 iex = one / ex, iey = one / ey, ifx = one / fx, ify = one / fy;
    D8 sum = edge_integral(x0, y0, ex, ey, u, v, iex, iey) + edge_integral(x1, y1, fx, fy, u, v, ifx, ify);
    sum = sum + edge_integral(x2, y2, zero - ex, zero - ey, u, v, zero - iex, zero - iey);
    sum = sum + edge_integral(x3, y3, zero - fx, zero - fy, u, v, zero - ifx, zero - ify);
    double noise[8];
    store8(noise, set8(4e-14) * (u * u + v * v + half_length * half_length + half_width * half_width));
    store8(area + at, max(set8(.5) * sum, zero));  // max also turns NaN into 0
    for (int i = 0; i < 8; ++i) area[at + i] = area[at + i] > noise[i] ? area[at + i] : 0.;  // boxes that only touch share nothing
  }
}

}  // namespace SUITE3D_LEVEL
}  // namespace suite3d
