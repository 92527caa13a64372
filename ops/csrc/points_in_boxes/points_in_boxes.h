// Which points lie in which boxes; one copy for each instruction set.
#pragma once

#include <cstdint>

namespace suite3d {

constexpr int64_t POINTS_OF_A_BLOCK = 64;

// Centre, half sizes, cosine and sine, and half sizes of the upright box around each (a little too large); padded to whole packs of 16
// with boxes that nothing meets.
struct UprightTable {
  const float* fields[8];  // x, y, z, half length, half width, half height, cosine, sine
  const float* reach;  // horizontal half size of the upright box
  int64_t count;
};

// Points by axis, POINTS_OF_A_BLOCK at most, padded to whole packs with NaN. `near` has room for count + 16.
// first[i]: the first box that holds point i, or -1.
using FirstBoxKernel = void(const UprightTable& boxes, const float* const* xyz, int64_t points, int32_t* near, int32_t* first);
// mask[j * stride + i] = 1 where box j holds point i; what is not set stays as it was.
using BoxMaskKernel = void(const UprightTable& boxes, const float* const* xyz, int64_t points, int32_t* near, uint8_t* mask, int64_t stride);

namespace any { FirstBoxKernel first_box; BoxMaskKernel box_mask; }
namespace avx2 { FirstBoxKernel first_box; BoxMaskKernel box_mask; }
namespace avx512 { FirstBoxKernel first_box; BoxMaskKernel box_mask; }

}  // namespace suite3d
