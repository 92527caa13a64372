// Points in rotated boxes: blocks of neighbouring rows are tested against the few boxes near them.
#include "points_in_boxes/points_in_boxes_kernel.h"

#include <cmath>
#include <limits>

#include "common.h"

namespace suite3d {
namespace {

class Table {
 public:
  explicit Table(const Tensor& boxes)
      : count_(boxes.size(0)), stride_((count_ + 15) / 16 * 16), memory_(9 * stride_, std::numeric_limits<float>::quiet_NaN()) {
    const float* rows = data<float>(boxes);
    for (int64_t j = 0; j < count_; ++j) {
      const float* box = rows + 7 * j;
      const double yaw = box[6];
      const float half[3] = {box[3] * .5f, box[4] * .5f, box[5] * .5f};
      const float cosine = static_cast<float>(std::cos(yaw)), sine = static_cast<float>(std::sin(yaw));
      const float reach = half[0] >= 0 && half[1] >= 0 ? 1.0001f * std::hypot(half[0], half[1]) : std::numeric_limits<float>::quiet_NaN();
      const float values[9] = {box[0], box[1], box[2], half[0], half[1], half[2], cosine, sine, reach};
      for (int field = 0; field < 9; ++field) memory_[field * stride_ + j] = values[field];
    }
  }

  UprightTable view() const {
    UprightTable table{{}, memory_.data() + 8 * stride_, count_};
    for (int field = 0; field < 8; ++field) table.fields[field] = memory_.data() + field * stride_;
    return table;
  }

 private:
  int64_t count_, stride_;
  std::vector<float> memory_;
};

// f(first row, points, xyz by axis, room for the numbers of near boxes) for every block of rows.
template <class F>
void each_block(const Tensor& xyz, int64_t boxes, const F& f) {
  const float* rows = data<float>(xyz);
  const int64_t count = xyz.size(0), blocks = (count + POINTS_OF_A_BLOCK - 1) / POINTS_OF_A_BLOCK;
  parallel_for(blocks, 32, [&](int64_t begin, int64_t end) {
    Scratch<int32_t> near(boxes + 16);
    for (int64_t block = begin; block < end; ++block) {
      float axes[3][POINTS_OF_A_BLOCK];
      const int64_t first = block * POINTS_OF_A_BLOCK, points = std::min(POINTS_OF_A_BLOCK, count - first);
      for (int64_t i = 0; i < (points + 15) / 16 * 16; ++i)
        for (int axis = 0; axis < 3; ++axis) axes[axis][i] = i < points ? rows[3 * (first + i) + axis] : std::numeric_limits<float>::quiet_NaN();
      const float* xyz_of_block[3] = {axes[0], axes[1], axes[2]};
      f(first, points, xyz_of_block, near.get());
    }
  });
}

Tensor points_in_boxes(const Tensor& xyz_any, const Tensor& boxes_any) {
  const Tensor xyz = as_contiguous(xyz_any), boxes = as_contiguous(boxes_any);
  const Tensor result = empty({xyz.size(0)}, ScalarType::Long, xyz);
  int64_t* out = mutable_data<int64_t>(result);
  const Table table(boxes);
  FirstBoxKernel* kernel = any::first_box;
#ifdef SUITE3D_X86
  kernel = isa() == Isa::avx512 ? avx512::first_box : isa() == Isa::avx2 ? avx2::first_box : kernel;
#endif
  each_block(xyz, boxes.size(0), [&](int64_t first, int64_t points, const float* const* axes, int32_t* near) {
    int32_t box[POINTS_OF_A_BLOCK];
    kernel(table.view(), axes, points, near, box);
    std::copy(box, box + points, out + first);
  });
  return result;
}

Tensor points_in_boxes_mask(const Tensor& xyz_any, const Tensor& boxes_any) {
  const Tensor xyz = as_contiguous(xyz_any), boxes = as_contiguous(boxes_any);
  const int64_t count = xyz.size(0);
  const Tensor result = empty({boxes.size(0), count}, ScalarType::Bool, xyz);
  uint8_t* out = mutable_data<uint8_t>(result);
  parallel_for(boxes.size(0) * count, 1 << 20, [&](int64_t begin, int64_t end) { std::memset(out + begin, 0, static_cast<size_t>(end - begin)); });
  const Table table(boxes);
  BoxMaskKernel* kernel = any::box_mask;
#ifdef SUITE3D_X86
  kernel = isa() == Isa::avx512 ? avx512::box_mask : isa() == Isa::avx2 ? avx2::box_mask : kernel;
#endif
  each_block(xyz, boxes.size(0), [&](int64_t first, int64_t points, const float* const* axes, int32_t* near) {
    kernel(table.view(), axes, points, near, out + first, count);
  });
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("points_in_boxes", TORCH_BOX(&suite3d::points_in_boxes));
  m.impl("points_in_boxes_mask", TORCH_BOX(&suite3d::points_in_boxes_mask));
}
