// Overlap and intersection over union of every pair of rotated boxes, one thread a pair.
#include "box_iou/overlap.cuh"

namespace suite3d {
namespace {

constexpr int THREADS = 128;

// One thread a pair; a block holds pairs of one row at a time.
__global__ void __launch_bounds__(THREADS) pair_values(const Rectangle* from, const Rectangle* to, const float* first, const float* second,
                                                       int64_t rows, int64_t columns, int64_t kind, float* out) {
  const int64_t j = blockIdx.x * int64_t{THREADS} + threadIdx.x;
  if (j >= columns) return;
  const Rectangle column = to[j];
  for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
    double shared = overlap_area(from[i], column), sizes = from[i].area() + column.area();
    float& value = out[i * columns + j];
    if (kind == 0) {
      value = isfinite(shared) ? static_cast<float>(shared) : 0.f;
      continue;
    }
    if (kind == 2 && shared > 0) {
      const float *p = first + 7 * i, *q = second + 7 * j;
      const double height_p = not_negative(p[5]), height_q = not_negative(q[5]);
      shared *= fmax(0., fmin(p[2] + height_p * .5, q[2] + height_q * .5) - fmax(p[2] - height_p * .5, q[2] - height_q * .5));
      sizes = from[i].area() * height_p + column.area() * height_q;
    }
    value = shared > 0 ? static_cast<float>(shared / (sizes - shared)) : 0.f;
  }
}

Tensor box_iou(Tensor a, Tensor b, int64_t kind) {
  a = as_contiguous(a), b = as_contiguous(b);
  const OnDevice device(a);
  const cudaStream_t stream = device.stream();
  const int64_t rows = a.size(0), columns = b.size(0);
  const Tensor result = empty({rows, columns}, ScalarType::Float, a);
  if (rows == 0 || columns == 0) return result;
  const Buffer<Rectangle> from = make_rectangles(data<float>(a), nullptr, rows, a, stream);
  const Buffer<Rectangle> to = make_rectangles(data<float>(b), nullptr, columns, b, stream);
  const dim3 blocks(static_cast<unsigned>((columns + THREADS - 1) / THREADS), static_cast<unsigned>(std::min<int64_t>(rows, 65535)));
  pair_values<<<blocks, THREADS, 0, stream>>>(from.get(), to.get(), data<float>(a), data<float>(b), rows, columns, kind, mutable_data<float>(result));
  SUITE3D_CUDA(cudaGetLastError());
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) { m.impl("box_iou", TORCH_BOX(&suite3d::box_iou)); }
