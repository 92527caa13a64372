// Boxes (cx, cy, cz, dx, dy, dz, yaw) prepared for the overlap kernels. Compiled for any machine.
#pragma once

#include <cmath>
#include <limits>

#include "box_iou/box_iou.h"
#include "common.h"

namespace suite3d {

struct BoxKernels {
  NearbyKernel* nearby = any::nearby_boxes;
  OverlapKernel* overlap = any::overlap_areas;
};

inline BoxKernels box_kernels() {
#ifdef SUITE3D_X86
  if (isa() == Isa::avx512) return {avx512::nearby_boxes, avx512::overlap_areas};
  if (isa() == Isa::avx2) return {avx2::nearby_boxes, avx2::overlap_areas};
#endif
  return {};
}

class Boxes {
 public:
  // Rows `order` of `boxes` (n, 7), or all of them in order.
  Boxes(const float* boxes, int64_t count, const int64_t* order) : count_(count), exact_(6 * count), quick_(3 * padded(count), quiet_nan()) {
    for (int64_t i = 0; i < count; ++i) {
      const float* box = boxes + 7 * (order ? order[i] : i);
      const double length = std::max(0., static_cast<double>(box[3])), width = std::max(0., static_cast<double>(box[4])), yaw = box[6];
      const double values[6] = {box[0], box[1], length * .5, width * .5, std::cos(yaw), std::sin(yaw)};
      for (int field = 0; field < 6; ++field) exact_[field * count + i] = values[field];
      quick_[i] = box[0], quick_[padded(count) + i] = box[1];
      quick_[2 * padded(count) + i] = static_cast<float>(.50001 * std::sqrt(length * length + width * width));
    }
  }

  // The boxes from `first` on, `count` of them.
  BoxTable table(int64_t first, int64_t count) const {
    const double* exact = exact_.data() + first;
    const float* quick = quick_.data() + first;
    return {exact, exact + count_, exact + 2 * count_, exact + 3 * count_, exact + 4 * count_, exact + 5 * count_,
            quick, quick + padded(count_), quick + 2 * padded(count_), count};
  }
  BoxTable table() const { return table(0, count_); }

  // Nothing is near this box any more.
  void remove(int64_t i) { quick_[i] = quiet_nan(); }
  float radius(int64_t i) const { return quick_[2 * padded(count_) + i]; }
  double area(int64_t i) const { return 4 * exact_[2 * count_ + i] * exact_[3 * count_ + i]; }

 private:
  static float quiet_nan() { return std::numeric_limits<float>::quiet_NaN(); }
  static int64_t padded(int64_t count) { return (count + 31) / 16 * 16; }  // a pack may start at any box

  int64_t count_;
  std::vector<double> exact_;
  std::vector<float> quick_;
};

}  // namespace suite3d
