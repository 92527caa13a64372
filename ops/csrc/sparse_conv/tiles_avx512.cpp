#include "sparse_conv/tiles.h"

#include <immintrin.h>

namespace suite3d {
namespace {

constexpr int kLanes = 16, kColumns = 4;
constexpr int rows_for(int columns) { return columns == 4 ? 6 : columns == 3 ? 8 : 12; }  // sums and columns in 32 registers
constexpr int outer_rows_for(int columns) { return columns == 1 ? 16 : columns == 2 ? 8 : 6; }  // divides most numbers of channels
using V = __m512;
inline V load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, V v) { _mm512_storeu_ps(p, v); }
inline V broadcast(float v) { return _mm512_set1_ps(v); }
inline V multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }

int64_t compact(const int32_t* map, int64_t count, int32_t* rows, int32_t* positions) {
  int64_t found = 0;
  __m512i position = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t t = 0; t < count; t += 16, position = _mm512_add_epi32(position, _mm512_set1_epi32(16))) {
    const __mmask16 there = count - t >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - t)) - 1);
    const __m512i row = _mm512_maskz_loadu_epi32(there, map + t);
    const __mmask16 keep = _mm512_mask_cmpge_epi32_mask(there, row, _mm512_setzero_si512());
    _mm512_storeu_si512(rows + found, _mm512_maskz_compress_epi32(keep, row));
    _mm512_storeu_si512(positions + found, _mm512_maskz_compress_epi32(keep, position));
    found += __builtin_popcount(keep);
  }
  return found;
}

#include "sparse_conv/tiles.inc"

}  // namespace

const ConvTiles& conv_tiles_avx512() { return kTiles; }

}  // namespace suite3d
