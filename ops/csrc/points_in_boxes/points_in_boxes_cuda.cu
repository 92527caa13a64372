// Points in rotated boxes: the boxes are prepared once, then one thread a point, or a point and box.
#include "geometry/device.cuh"

namespace suite3d {
namespace {

struct Prepared {
  float x, y, z, half_length, half_width, half_height, cosine, sine;

  __device__ bool holds(const float* p) const {
    const float dx = __fsub_rn(p[0], x), dy = __fsub_rn(p[1], y), dz = __fsub_rn(p[2], z);
    const float along = product_sum(dx, cosine, dy, sine), across = product_sum(dy, cosine, -dx, sine);
    return fabsf(along) <= half_length && fabsf(across) <= half_width && fabsf(dz) <= half_height;
  }
};

Buffer<Prepared> prepare(const Tensor& boxes, cudaStream_t stream) {
  Buffer<Prepared> table(boxes.size(0), boxes);
  for_each(boxes.size(0), stream, [table = table.get(), rows = data<float>(boxes)] __device__(int64_t j) {
    const float* box = rows + 7 * j;
    const double yaw = box[6];
    table[j] = {box[0], box[1], box[2], box[3] * .5f, box[4] * .5f, box[5] * .5f, static_cast<float>(cos(yaw)), static_cast<float>(sin(yaw))};
  });
  return table;
}

Tensor points_in_boxes(Tensor xyz, Tensor boxes) {
  xyz = as_contiguous(xyz), boxes = as_contiguous(boxes);
  const OnDevice device(xyz);
  const Buffer<Prepared> table = prepare(boxes, device.stream());
  const Tensor result = empty({xyz.size(0)}, ScalarType::Long, xyz);
  const float* rows = data<float>(xyz);
  int64_t *out = mutable_data<int64_t>(result), count = boxes.size(0);
  for_each(xyz.size(0), device.stream(), [=, table = table.get()] __device__(int64_t i) {
    const float point[3] = {rows[3 * i], rows[3 * i + 1], rows[3 * i + 2]};
    int64_t box = 0;
    while (box < count && !table[box].holds(point)) ++box;
    out[i] = box < count ? box : -1;
  });
  return result;
}

Tensor points_in_boxes_mask(Tensor xyz, Tensor boxes) {
  xyz = as_contiguous(xyz), boxes = as_contiguous(boxes);
  const OnDevice device(xyz);
  const Buffer<Prepared> table = prepare(boxes, device.stream());
  const int64_t count = xyz.size(0);
  const Tensor result = empty({boxes.size(0), count}, ScalarType::Bool, xyz);
  const float* rows = data<float>(xyz);
  bool* out = mutable_data<bool>(result);
  for_each(boxes.size(0) * count, device.stream(), [=, table = table.get()] __device__(int64_t i) {
    out[i] = table[i / count].holds(rows + 3 * (i % count));
  });
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("points_in_boxes", TORCH_BOX(&suite3d::points_in_boxes));
  m.impl("points_in_boxes_mask", TORCH_BOX(&suite3d::points_in_boxes_mask));
}
