// Positions of points along a space-filling curve; one copy for each instruction set.
#pragma once

#include <cstdint>

namespace suite3d {

// Least and largest coordinate of each axis; false, with neither, if a coordinate is not finite.
using BoundsKernel = bool(const float* xyz, int64_t count, float* low, float* high);

// keys[i] = (position of point rows[i], or i where rows is null, along the Hilbert curve) << row_bits | i. The curve goes through the
// 2^bits cells an axis of a cube from `low`, `extent` wide, which holds the points; bits <= 16 and 3 bits + row_bits <= 64.
using CurveKernel = void(const float* xyz, const int32_t* rows, int64_t count, const float* low, double extent, int bits, int row_bits, uint64_t* keys);

namespace any { BoundsKernel point_bounds; CurveKernel curve_keys; }
namespace avx2 { BoundsKernel point_bounds; CurveKernel curve_keys; }
namespace avx512 { BoundsKernel point_bounds; CurveKernel curve_keys; }

}  // namespace suite3d
