// Points in rotated boxes, one thread a point: the boxes are prepared once, and staged for a block of points.
#include "geometry/device.cuh"

namespace suite3d {
namespace {

constexpr int THREADS = 128;  // points of a block, and boxes of a tile

struct Prepared {
  float x, y, z, half_length, half_width, half_height, cosine, sine;
  float reach;  // horizontal half size of an upright box around it, a little too large

  __device__ bool holds(const float* p) const {
    const float dx = __fsub_rn(p[0], x), dy = __fsub_rn(p[1], y), dz = __fsub_rn(p[2], z);
    if (!(fabsf(dx) <= reach && fabsf(dy) <= reach && fabsf(dz) <= half_height)) return false;
    const float along = product_sum(dx, cosine, dy, sine), across = product_sum(dy, cosine, -dx, sine);
    return fabsf(along) <= half_length && fabsf(across) <= half_width;
  }
};

Buffer<Prepared> prepare(const Tensor& boxes, cudaStream_t stream) {
  Buffer<Prepared> table(boxes.size(0), boxes);
  for_each(boxes.size(0), stream, [table = table.get(), rows = data<float>(boxes)] __device__(int64_t j) {
    const float* box = rows + 7 * j;
    const double yaw = box[6];
    const float length = box[3] * .5f, width = box[4] * .5f;
    table[j] = {box[0], box[1], box[2], length, width, box[5] * .5f, static_cast<float>(cos(yaw)), static_cast<float>(sin(yaw)),
                hypotf(length, width) * 1.00001f + 1e-30f};
  });
  return table;
}

// found(i, j, inside) for the point of this thread and each box, until it returns false.
template <class F>
__device__ void for_each_box(const float* xyz, int64_t points, const Prepared* table, int64_t boxes, const F& found) {
  __shared__ Prepared tile[THREADS];
  const int64_t i = blockIdx.x * int64_t{THREADS} + threadIdx.x;
  float point[3] = {NAN, NAN, NAN};
  bool open = i < points;
  for (int axis = 0; open && axis < 3; ++axis) point[axis] = xyz[3 * i + axis];
  for (int64_t base = 0; base < boxes; base += THREADS) {
    if (base + threadIdx.x < boxes) tile[threadIdx.x] = table[base + threadIdx.x];
    __syncthreads();
    const int count = static_cast<int>(boxes - base < THREADS ? boxes - base : THREADS);
    for (int j = 0; open && j < count; ++j) open = found(i, base + j, tile[j].holds(point));
    __syncthreads();
  }
}

__global__ void __launch_bounds__(THREADS) first_box(const float* xyz, int64_t points, const Prepared* table, int64_t boxes, int64_t* out) {
  int64_t first = -1;
  for_each_box(xyz, points, table, boxes, [&](int64_t, int64_t j, bool inside) {
    if (inside) first = j;
    return !inside;
  });
  const int64_t i = blockIdx.x * int64_t{THREADS} + threadIdx.x;
  if (i < points) out[i] = first;
}

__global__ void __launch_bounds__(THREADS) box_masks(const float* xyz, int64_t points, const Prepared* table, int64_t boxes, bool* out) {
  for_each_box(xyz, points, table, boxes, [=](int64_t i, int64_t j, bool inside) {
    out[j * points + i] = inside;
    return true;
  });
}

Tensor points_in_boxes(Tensor xyz, Tensor boxes) {
  xyz = as_contiguous(xyz), boxes = as_contiguous(boxes);
  const OnDevice device(xyz);
  const Buffer<Prepared> table = prepare(boxes, device.stream());
  const Tensor result = empty({xyz.size(0)}, ScalarType::Long, xyz);
  launch_rows(first_box, xyz.size(0), THREADS, device.stream(), data<float>(xyz), xyz.size(0), table.get(), boxes.size(0),
              mutable_data<int64_t>(result));
  return result;
}

Tensor points_in_boxes_mask(Tensor xyz, Tensor boxes) {
  xyz = as_contiguous(xyz), boxes = as_contiguous(boxes);
  const OnDevice device(xyz);
  const Buffer<Prepared> table = prepare(boxes, device.stream());
  const Tensor result = empty({boxes.size(0), xyz.size(0)}, ScalarType::Bool, xyz);
  launch_rows(box_masks, xyz.size(0), THREADS, device.stream(), data<float>(xyz), xyz.size(0), table.get(), boxes.size(0),
              mutable_data<bool>(result));
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("points_in_boxes", TORCH_BOX(&suite3d::points_in_boxes));
  m.impl("points_in_boxes_mask", TORCH_BOX(&suite3d::points_in_boxes_mask));
}
