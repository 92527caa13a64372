// Overlap and intersection over union of every pair of rotated boxes.
#include "box_iou/box_iou_kernel.h"
#include "box_iou/boxes.h"

namespace suite3d {
namespace {

enum Kind : int64_t { overlap_area = 0, bev = 1, solid = 2 };

double volume_ratio(const float* a, const float* b, double overlap) {
  double size[2][3], low[2], high[2];
  const float* boxes[2] = {a, b};
  for (int i = 0; i < 2; ++i) {
    for (int axis = 0; axis < 3; ++axis) size[i][axis] = std::max(0., static_cast<double>(boxes[i][3 + axis]));
    low[i] = boxes[i][2] - size[i][2] * .5, high[i] = boxes[i][2] + size[i][2] * .5;
  }
  const double shared = overlap * std::max(0., std::min(high[0], high[1]) - std::max(low[0], low[1]));
  if (!(shared > 0)) return 0;
  return shared / (size[0][0] * size[0][1] * size[0][2] + size[1][0] * size[1][1] * size[1][2] - shared);
}

Tensor box_iou(const Tensor& a_any, const Tensor& b_any, int64_t kind) {
  const Tensor a = as_contiguous(a_any), b = as_contiguous(b_any);
  const int64_t rows = a.size(0), columns = b.size(0);
  const Tensor result = empty({rows, columns}, ScalarType::Float, a);
  float* out = mutable_data<float>(result);
  const float *boxes_a = data<float>(a), *boxes_b = data<float>(b);
  const Boxes from(boxes_a, rows, nullptr), to(boxes_b, columns, nullptr);
  const BoxTable from_table = from.table(), to_table = to.table();
  const BoxKernels kernels = box_kernels();
  parallel_for(rows, 4, [&](int64_t first, int64_t last) {
    Scratch<int32_t> found(columns + 32);
    Scratch<double> areas(columns + 8);
    for (int64_t i = first; i < last; ++i) {
      float* row = out + i * columns;
      std::fill(row, row + columns, 0.f);
      const int64_t count = kernels.nearby(from_table, i, to_table, found.get());
      kernels.overlap(from_table, i, to_table, found.get(), count, areas.get());
      for (int64_t near = 0; near < count; ++near) {
        const int64_t j = found[near];
        const double area = areas[near];
        if (kind == overlap_area)
          row[j] = std::isfinite(area) ? static_cast<float>(area) : 0.f;
        else if (area > 0)
          row[j] = static_cast<float>(kind == bev ? area / (from.area(i) + to.area(j) - area) : volume_ratio(boxes_a + 7 * i, boxes_b + 7 * j, area));
      }
    }
  });
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) { m.impl("box_iou", TORCH_BOX(&suite3d::box_iou)); }
