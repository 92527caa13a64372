#pragma once

#include "geometry/curve.h"
#include "geometry/simd.h"

namespace {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int BLOCK = 16;
#elif defined(__AVX2__)
constexpr int BLOCK = 8;
#else
constexpr int BLOCK = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * BLOCK)));
typedef int32_t Ints __attribute__((vector_size(4 * BLOCK)));
typedef uint32_t Cells __attribute__((vector_size(4 * BLOCK)));
typedef uint32_t HalfCells __attribute__((vector_size(2 * BLOCK)));
typedef uint64_t Positions __attribute__((vector_size(4 * BLOCK)));  // of half a block

// Bits two places apart, for 16 bits at most.
SUITE3D_INLINE void spread_bits(const uint32_t* cells, Positions& v) {
  HalfCells half;
  std::memcpy(&half, cells, sizeof(half));
  v = __builtin_convertvector(half, Positions);
  v = (v | v << 16) & 0x0000ff0000ffull;
  v = (v | v << 8) & 0x00f00f00f00full;
  v = (v | v << 4) & 0x0c30c30c30c3ull;
  v = (v | v << 2) & 0x249249249249ull;
}

// Position along the Hilbert curve of the cells of a block of points (Skilling 2004, "Programming the Hilbert curve": undo the excess
// rotations of every level, then Gray-code). Leaves along it have smaller boxes than along the Morton curve, which jumps: a third fewer
// of them are visited.
SUITE3D_INLINE void hilbert_block(const Cells (&cell)[3], int bits, Positions (&index)[2]) {
  Cells x = cell[0], y = cell[1], z = cell[2];
  for (int level = bits - 1; level > 0; --level) {
    const uint32_t below = (1u << level) - 1;
    Cells set = 0u - (x >> level & 1u);
    x ^= set & below;
    set = 0u - (y >> level & 1u);
    Cells swapped = (x ^ y) & below & ~set;
    x ^= swapped | (set & below), y ^= swapped;
    set = 0u - (z >> level & 1u);
    swapped = (x ^ z) & below & ~set;
    x ^= swapped | (set & below), z ^= swapped;
  }
  y ^= x, z ^= y;
  Cells turn = z;  // becomes, bit by bit, the parity of the bits above
  turn ^= turn >> 1, turn ^= turn >> 2, turn ^= turn >> 4, turn ^= turn >> 8, turn ^= turn >> 16;
  turn >>= 1;
  x ^= turn, y ^= turn, z ^= turn;
  uint32_t turned[3][BLOCK];
  std::memcpy(turned[0], &x, sizeof(x)), std::memcpy(turned[1], &y, sizeof(y)), std::memcpy(turned[2], &z, sizeof(z));
  for (int half = 0; half < 2; ++half) {
    Positions part[3];
    for (int axis = 0; axis < 3; ++axis) spread_bits(turned[axis] + half * BLOCK / 2, part[axis]);
    index[half] = part[0] << 2 | part[1] << 1 | part[2];
  }
}

}  // namespace

namespace suite3d {
namespace SUITE3D_LEVEL {

bool point_bounds(const float* xyz, int64_t count, float* low, float* high) {
  // Three packs hold sixteen points; lane l of pack p belongs to axis (16 p + l) % 3.
  F16 least[3], most[3];
  for (int pack = 0; pack < 3; ++pack) least[pack] = set1(FLOAT_MAX), most[pack] = set1(-FLOAT_MAX);
  M16 finite = set1(0.f) == set1(0.f);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int pack = 0; pack < 3; ++pack) {
      const F16 value = load(xyz + 3 * i + 16 * pack);
      finite = finite & (abs(value) <= set1(FLOAT_MAX));
      least[pack] = min(value, least[pack]), most[pack] = max(value, most[pack]);
    }
  float lanes[2][48];
  for (int pack = 0; pack < 3; ++pack) store(lanes[0] + 16 * pack, least[pack]), store(lanes[1] + 16 * pack, most[pack]);
  bool fine = bits(finite) == 0xffff;
  for (int lane = 0; lane < 48; ++lane) {
    const int axis = lane % 3;
    low[axis] = lane < 3 || lanes[0][lane] < low[axis] ? lanes[0][lane] : low[axis];
    high[axis] = lane < 3 || lanes[1][lane] > high[axis] ? lanes[1][lane] : high[axis];
  }
  for (i *= 3; i < 3 * count; ++i) {
    const int axis = static_cast<int>(i % 3);
    fine &= __builtin_fabsf(xyz[i]) <= FLOAT_MAX;
    low[axis] = xyz[i] < low[axis] ? xyz[i] : low[axis];
    high[axis] = xyz[i] > high[axis] ? xyz[i] : high[axis];
  }
  return fine;
}

void curve_keys(const float* xyz, const int32_t* rows, int64_t count, const float* low, double extent, int bits, int row_bits, uint64_t* keys) {
  const int32_t last = (1 << bits) - 1;
  const double wanted = 2. * last / extent;  // of half a coordinate, so that no difference overflows
  const float scale = wanted < FLOAT_MAX ? static_cast<float>(wanted) : FLOAT_MAX;
  const F16 half = set1(.5f), steps = set1(scale), most = set1(static_cast<float>(last));
  const F16 half_low[3] = {half * set1(low[0]), half * set1(low[1]), half * set1(low[2])};
  for (int64_t at = 0; at < count; at += 16) {
    const int64_t here = count - at < 16 ? count - at : 16;
    float value[3][16] = {};
    for (int64_t i = 0; i < here; ++i) {
      const float* p = xyz + 3 * (rows ? rows[at + i] : at + i);
      for (int axis = 0; axis < 3; ++axis) value[axis][i] = p[axis];
    }
    for (int axis = 0; axis < 3; ++axis) store(value[axis], min((half * load(value[axis]) - half_low[axis]) * steps, most));
    uint64_t found[16];
    for (int first = 0; first < 16; first += BLOCK) {
      Cells cell[3];
      for (int axis = 0; axis < 3; ++axis) {
        Floats along;
        std::memcpy(&along, value[axis] + first, sizeof(along));
        cell[axis] = reinterpret_cast<Cells>(__builtin_convertvector(along, Ints)) & static_cast<uint32_t>(last);
      }
      Positions index[2];
      hilbert_block(cell, bits, index);
      std::memcpy(found + first, index, sizeof(index));
    }
    for (int i = 0; i < 16; ++i) found[i] = found[i] << row_bits | static_cast<uint64_t>(at + i);
    if (here == 16) {
      std::memcpy(keys + at, found, sizeof(found));
    } else {
      std::memcpy(keys + at, found, static_cast<size_t>(8 * here));
    }
  }
}

}  // namespace SUITE3D_LEVEL
}  // namespace suite3d
