// Greedy non-maximum suppression of rotated boxes. The boxes lie sorted by x, so that a kept box looks only at a window around it.
#include "box_iou/boxes.h"
#include "geometry/sort.h"

namespace suite3d {
namespace {

Tensor nms_rotated(const Tensor& boxes_any, const Tensor& order_any, double iou_threshold, int64_t max_keep) {
  const Tensor boxes = as_contiguous(boxes_any), order_tensor = as_contiguous(order_any);
  const int64_t count = boxes.size(0), *order = data<int64_t>(order_tensor);
  const float* rows = data<float>(boxes);
  SUITE3D_CHECK(order_tensor.numel() == count, "order must have one entry for each box");
  for (int64_t i = 0; i < count; ++i) SUITE3D_CHECK(0 <= order[i] && order[i] < count, "order must hold rows of boxes");

  SUITE3D_CHECK(count <= INT32_MAX, "nms: ", count, " boxes, more than int32 rows hold");
  auto x_of = [&](int64_t row) { return std::isnan(rows[7 * row]) ? std::numeric_limits<float>::infinity() : rows[7 * row]; };
  std::vector<uint64_t> keys(count);  // x as an integer of the same order, then the row
  for (int64_t i = 0; i < count; ++i) {
    const float value = x_of(i);
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    keys[i] = static_cast<uint64_t>(bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u)) << 31 | static_cast<uint64_t>(i);
  }
  sort_keys(keys, 31, 11);
  std::vector<int64_t> by_x(count);
  for (int64_t i = 0; i < count; ++i) by_x[i] = static_cast<int64_t>(keys[i] & INT32_MAX);
  std::vector<int64_t> place(count);
  std::vector<float> x(count);
  for (int64_t i = 0; i < count; ++i) place[by_x[i]] = i, x[i] = x_of(by_x[i]);

  Boxes table(rows, count, by_x.data());
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, table.radius(i));
  const BoxKernels kernels = box_kernels();
  std::vector<bool> dropped(count, false);
  std::vector<int32_t> found(count + 32);
  std::vector<double> areas(count + 8);
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < count && static_cast<int64_t>(kept.size()) < max_keep; ++i) {
    const int64_t box = place[order[i]];
    if (dropped[box]) continue;
    kept.push_back(order[i]);
    const float reach = (table.radius(box) + largest) * 1.0001f, near_x = x[box];
    const float from = near_x - reach, to = near_x + reach;
    const int64_t first = std::lower_bound(x.begin(), x.end(), from) - x.begin(), last = std::upper_bound(x.begin(), x.end(), to) - x.begin();
    if (!(from <= to) || first >= last) continue;  // not finite: meets nothing
    const BoxTable window = table.table(first, last - first);
    const int64_t near = kernels.nearby(table.table(), box, window, found.data());
    table.remove(box);
    kernels.overlap(table.table(), box, window, found.data(), near, areas.data());
    for (int64_t j = 0; j < near; ++j) {
      const int64_t other = first + found[j];
      if (other == box || !(areas[j] > 0) || !(areas[j] / (table.area(box) + table.area(other) - areas[j]) > iou_threshold)) continue;
      dropped[other] = true;
      table.remove(other);
    }
  }
  const Tensor result = empty({static_cast<int64_t>(kept.size())}, ScalarType::Long, order_tensor);
  std::copy(kept.begin(), kept.end(), mutable_data<int64_t>(result));
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) { m.impl("nms_rotated", TORCH_BOX(&suite3d::nms_rotated)); }
