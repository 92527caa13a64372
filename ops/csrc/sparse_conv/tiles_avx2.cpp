#include "sparse_conv/tiles.h"

#include <immintrin.h>

namespace suite3d {
namespace {

constexpr int kLanes = 8, kColumns = 2;
constexpr int rows_for(int columns) { return columns == 2 ? 6 : 8; }  // sums and columns in 16 registers
constexpr int outer_rows_for(int columns) { return rows_for(columns); }
using V = __m256;
inline V load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, V v) { _mm256_storeu_ps(p, v); }
inline V broadcast(float v) { return _mm256_set1_ps(v); }
inline V multiply_add(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }

int64_t compact(const int32_t* map, int64_t count, int32_t* rows, int32_t* positions) {
  int64_t found = 0, t = 0;
  for (; t + 8 <= count; t += 8) {
    const int absent = _mm256_movemask_ps(_mm256_loadu_ps(reinterpret_cast<const float*>(map + t)));  // sign bits
    for (unsigned keep = ~static_cast<unsigned>(absent) & 0xff; keep; keep &= keep - 1) {
      const int64_t at = t + __builtin_ctz(keep);
      rows[found] = map[at];
      positions[found++] = static_cast<int32_t>(at);
    }
  }
  for (; t < count; ++t) {
    if (map[t] < 0) continue;
    rows[found] = map[t];
    positions[found++] = static_cast<int32_t>(t);
  }
  return found;
}

#include "sparse_conv/tiles.inc"

}  // namespace

const ConvTiles& conv_tiles_avx2() { return kTiles; }

}  // namespace suite3d
