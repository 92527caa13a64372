// Inner loops of sparse convolution, one set for each instruction set.
#pragma once

#include <cstdint>

namespace suite3d {

struct ConvTiles {
  int lanes;  // floats in a vector; the width of packed weights is padded to it
  int panel;  // packed weights are split into panels of so many columns; the last may have fewer

  // Positions of the entries >= 0 of map[0, count): rows[i] = map[t], positions[i] = t. Returns how many. Both hold count + 16.
  int64_t (*compact)(const int32_t* map, int64_t count, int32_t* rows, int32_t* positions);

  // out[positions[i]] += x[rows[i]] w for each pair i, one fused multiply-add after the other along depth.
  // x: rows of `depth`; w: panel after panel, each (depth, columns of the panel); width a multiple of lanes; out: rows of `width`.
  void (*multiply)(const float* x, int64_t depth, const float* w, int64_t width, const int32_t* rows, const int32_t* positions, int64_t pairs, float* out);

  // out (height, width) += sum over pairs of x[rows[i]][0, height) outer y[positions[i]][0, width); x and y with the given strides.
  // width is a multiple of lanes.
  void (*outer)(const float* x, int64_t x_stride, const float* y, int64_t y_stride, const int32_t* rows, const int32_t* positions, int64_t pairs,
                int64_t height, int64_t width, float* out);
};

const ConvTiles& conv_tiles_any();
const ConvTiles& conv_tiles_avx2();
const ConvTiles& conv_tiles_avx512();

}  // namespace suite3d
