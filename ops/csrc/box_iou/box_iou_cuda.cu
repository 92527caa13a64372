// Overlap and intersection over union of every pair of rotated boxes, one thread a pair.
#include "box_iou/overlap.cuh"

namespace suite3d {
namespace {

Tensor box_iou(Tensor a, Tensor b, int64_t kind) {
  a = as_contiguous(a), b = as_contiguous(b);
  const OnDevice device(a);
  const cudaStream_t stream = device.stream();
  const int64_t rows = a.size(0), columns = b.size(0);
  const Tensor result = empty({rows, columns}, ScalarType::Float, a);
  const Buffer<Rectangle> from = make_rectangles(data<float>(a), nullptr, rows, a, stream);
  const Buffer<Rectangle> to = make_rectangles(data<float>(b), nullptr, columns, b, stream);
  const float *first = data<float>(a), *second = data<float>(b);
  float* out = mutable_data<float>(result);
  for_each(rows * columns, stream,
           [=, from = from.get(), to = to.get()] __device__(int64_t at) {
             const int64_t i = at / columns, j = at % columns;
             double shared = overlap_area(from[i], to[j]), sizes = from[i].area() + to[j].area();
             if (kind == 0) {
               out[at] = isfinite(shared) ? static_cast<float>(shared) : 0.f;
               return;
             }
             if (kind == 2) {
               const float *p = first + 7 * i, *q = second + 7 * j;
               const double height_p = not_negative(p[5]), height_q = not_negative(q[5]);
               shared *= fmax(0., fmin(p[2] + height_p * .5, q[2] + height_q * .5) - fmax(p[2] - height_p * .5, q[2] - height_q * .5));
               sizes = from[i].area() * height_p + to[j].area() * height_q;
             }
             out[at] = shared > 0 ? static_cast<float>(shared / (sizes - shared)) : 0.f;
           });
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) { m.impl("box_iou", TORCH_BOX(&suite3d::box_iou)); }
