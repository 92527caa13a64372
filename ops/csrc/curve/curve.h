// Positions along space-filling curves, a block of cells at a time; one copy for each instruction set.
#pragma once

#include <cstdint>

namespace suite3d {

constexpr int CURVE_BLOCK = 64;
constexpr int MAX_CURVE_DEPTH = 21;  // three axes in 63 bits

// cell[axis][i] below 2^depth; overwritten. code[i] is the position of cell i.
using CurveKernel = void(uint32_t (&cell)[3][CURVE_BLOCK], int depth, bool hilbert, uint64_t (&code)[CURVE_BLOCK]);

namespace any { CurveKernel curve_block; }
namespace avx2 { CurveKernel curve_block; }
namespace avx512 { CurveKernel curve_block; }

}  // namespace suite3d
