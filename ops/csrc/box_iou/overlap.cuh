// Overlap of two rotated rectangles on the device: the line integral of reference/boxes.py, in double.
#pragma once

#include "geometry/device.cuh"

namespace suite3d {

struct Rectangle {
  double x, y, half_length, half_width, cosine, sine;
  float radius;  // of a circle around it, a little too large

  __device__ double area() const { return 4 * half_length * half_width; }
};

__device__ inline double not_negative(float size) { return size > 0 ? static_cast<double>(size) : 0.; }

__device__ inline Rectangle make_rectangle(const float* box) {
  const double length = not_negative(box[3]), width = not_negative(box[4]), yaw = box[6];
  return {box[0], box[1], length * .5, width * .5, cos(yaw), sin(yaw), static_cast<float>(.50001 * hypot(length, width))};
}

inline Buffer<Rectangle> make_rectangles(const float* boxes, const int64_t* order, int64_t count, const Tensor& like, cudaStream_t stream) {
  Buffer<Rectangle> table(count, like);
  for_each(count, stream, [=, table = table.get()] __device__(int64_t i) { table[i] = make_rectangle(boxes + 7 * (order ? order[i] : i)); });
  return table;
}

__device__ inline double clamped(double value, double low, double high) { return fmin(fmax(value, low), high); }

// fmax(NaN, 0) is 0: the 0 * infinity of an edge along a line of the rectangle becomes a bend that does no harm. The inverses of dx and dy
// serve two edges each.
__device__ inline double edge_integral(double x, double y, double dx, double dy, double u, double v, double inverse_dx, double inverse_dy) {
  const double a = clamped((-u - x) * inverse_dx, 0, 1), b = clamped((u - x) * inverse_dx, 0, 1);
  const double c = clamped((-v - y) * inverse_dy, 0, 1), d = clamped((v - y) * inverse_dy, 0, 1);
  const double a0 = fmin(a, b), a1 = fmax(a, b), c0 = fmin(c, d), c1 = fmax(c, d), m0 = fmax(a0, c0), m1 = fmin(a1, c1);
  const double bends[5] = {fmin(a0, c0), fmin(m0, m1), fmax(m0, m1), fmax(a1, c1), 1.};
  double last_x = clamped(x, -u, u), last_y = clamped(y, -v, v), twice = 0;
#pragma unroll
  for (int i = 0; i < 5; ++i) {
    const double next_x = clamped(x + bends[i] * dx, -u, u), next_y = clamped(y + bends[i] * dy, -v, v);
    twice += (last_x + next_x) * (next_y - last_y);
    last_x = next_x, last_y = next_y;
  }
  return twice;
}

__device__ inline double overlap_area(const Rectangle& a, const Rectangle& b) {
  const double dx = b.x - a.x, dy = b.y - a.y;
  const float quick_x = static_cast<float>(dx), quick_y = static_cast<float>(dy), reach = a.radius + b.radius;
  if (!(quick_x * quick_x + quick_y * quick_y <= reach * reach)) return 0;  // far apart, or not finite
  const double x = dx * a.cosine + dy * a.sine, y = dy * a.cosine - dx * a.sine;
  const double c = b.cosine * a.cosine + b.sine * a.sine, s = b.sine * a.cosine - b.cosine * a.sine;
  const double lx = b.half_length * c, ly = b.half_length * s, wx = -b.half_width * s, wy = b.half_width * c, u = a.half_length, v = a.half_width;
  const double ex = -2 * lx, ey = -2 * ly, fx = -2 * wx, fy = -2 * wy;  // edges 0-1 and 1-2; the others are opposite
  const double iex = 1 / ex, iey = 1 / ey, ifx = 1 / fx, ify = 1 / fy;
  double twice = edge_integral(x + lx + wx, y + ly + wy, ex, ey, u, v, iex, iey) + edge_integral(x - lx + wx, y - ly + wy, fx, fy, u, v, ifx, ify);
  twice += edge_integral(x - lx - wx, y - ly - wy, -ex, -ey, u, v, -iex, -iey) + edge_integral(x + lx - wx, y + ly - wy, -fx, -fy, u, v, -ifx, -ify);
  const double noise = 4e-14 * (u * u + v * v + b.half_length * b.half_length + b.half_width * b.half_width);
  return .5 * twice > noise ? .5 * twice : 0;  // NaN too
}

}  // namespace suite3d
