// Overlap of rotated rectangles, eight pairs at a time; one copy for each instruction set. Used by box_iou and nms.
#pragma once

#include <cstdint>

namespace suite3d {

// A box prepared once: centre, half sizes (at least 0), heading, for the exact computation in double; circle around it, for the quick test.
struct BoxTable {
  const double *x, *y, *half_length, *half_width, *cosine, *sine;
  const float *centre_x, *centre_y, *radius;  // padded to whole packs of 16 with NaN centres
  int64_t count;
};

// Columns j whose circle meets that of `row`, ascending, into `found`; returns their number. The circles are a little too large.
using NearbyKernel = int64_t(const BoxTable& rows, int64_t row, const BoxTable& columns, int32_t* found);

// area[i] = overlap of rows[row] and columns[found[i]], i < count; `found` and `area` have room for a multiple of eight.
using OverlapKernel = void(const BoxTable& rows, int64_t row, const BoxTable& columns, int32_t* found, int64_t count, double* area);

namespace any { NearbyKernel nearby_boxes; OverlapKernel overlap_areas; }
namespace avx2 { NearbyKernel nearby_boxes; OverlapKernel overlap_areas; }
namespace avx512 { NearbyKernel nearby_boxes; OverlapKernel overlap_areas; }

}  // namespace suite3d
