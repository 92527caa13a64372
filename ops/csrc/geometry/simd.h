// Sixteen floats and eight doubles at a time, on AVX-512, AVX2, or whatever the machine offers.
//
// Everything here has internal linkage: the file is compiled once for each instruction set, and a function shared between those
// objects could be the one compiled for a machine that this is not. For the same reason kernels that use it avoid std templates.
// No operation is a fused multiply-add: results must not depend on the instruction set.
#pragma once

#include <cstdint>
#include <cstring>

// gcc 12 takes the "undefined" arguments inside its own AVX-512 reductions for a mistake.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define SUITE3D_LEVEL avx512
#elif defined(__AVX2__)
#define SUITE3D_LEVEL avx2
#else
#define SUITE3D_LEVEL any
#endif

#define SUITE3D_INLINE static inline __attribute__((always_inline))

namespace {

constexpr float FLOAT_MAX = 3.402823466e+38f;

#if defined(__AVX512F__) && defined(__AVX512DQ__)

struct F16 { __m512 v; };
struct I16 { __m512i v; };
struct M16 { __mmask16 v; };
struct D8 { __m512d v; };

SUITE3D_INLINE F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
SUITE3D_INLINE void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
SUITE3D_INLINE F16 set1(float a) { return {_mm512_set1_ps(a)}; }
// The product of an addition is kept out of sight of the compiler, which would fuse the two.
SUITE3D_INLINE F16 operator*(F16 a, F16 b) { __m512 r = _mm512_mul_ps(a.v, b.v); __asm__("" : "+v"(r)); return {r}; }
SUITE3D_INLINE F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
SUITE3D_INLINE F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
SUITE3D_INLINE F16 min(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }  // b where either is NaN
SUITE3D_INLINE F16 max(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
SUITE3D_INLINE F16 abs(F16 a) { return {_mm512_abs_ps(a.v)}; }
SUITE3D_INLINE M16 operator<(F16 a, F16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
SUITE3D_INLINE M16 operator<=(F16 a, F16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
SUITE3D_INLINE M16 operator==(F16 a, F16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
SUITE3D_INLINE M16 operator&(M16 a, M16 b) { return {static_cast<__mmask16>(a.v & b.v)}; }
SUITE3D_INLINE M16 operator|(M16 a, M16 b) { return {static_cast<__mmask16>(a.v | b.v)}; }
SUITE3D_INLINE uint32_t bits(M16 a) { return a.v; }
SUITE3D_INLINE F16 select(M16 m, F16 a, F16 b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }
SUITE3D_INLINE I16 select(M16 m, I16 a, I16 b) { return {_mm512_mask_blend_epi32(m.v, b.v, a.v)}; }
SUITE3D_INLINE I16 set1(int32_t a) { return {_mm512_set1_epi32(a)}; }
SUITE3D_INLINE M16 operator<(I16 a, I16 b) { return {_mm512_cmplt_epi32_mask(a.v, b.v)}; }
SUITE3D_INLINE I16 load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
SUITE3D_INLINE void store(int32_t* p, I16 a) { _mm512_storeu_si512(p, a.v); }
SUITE3D_INLINE float reduce_max(F16 a) { return _mm512_reduce_max_ps(a.v); }
SUITE3D_INLINE float reduce_min(F16 a) { return _mm512_reduce_min_ps(a.v); }

SUITE3D_INLINE D8 load8(const double* p) { return {_mm512_loadu_pd(p)}; }
SUITE3D_INLINE void store8(double* p, D8 a) { _mm512_storeu_pd(p, a.v); }
SUITE3D_INLINE D8 set8(double a) { return {_mm512_set1_pd(a)}; }
SUITE3D_INLINE D8 operator*(D8 a, D8 b) { __m512d r = _mm512_mul_pd(a.v, b.v); __asm__("" : "+v"(r)); return {r}; }
SUITE3D_INLINE D8 operator+(D8 a, D8 b) { return {_mm512_add_pd(a.v, b.v)}; }
SUITE3D_INLINE D8 operator-(D8 a, D8 b) { return {_mm512_sub_pd(a.v, b.v)}; }
SUITE3D_INLINE D8 operator/(D8 a, D8 b) { return {_mm512_div_pd(a.v, b.v)}; }
SUITE3D_INLINE D8 min(D8 a, D8 b) { return {_mm512_min_pd(a.v, b.v)}; }  // b where either is NaN
SUITE3D_INLINE D8 max(D8 a, D8 b) { return {_mm512_max_pd(a.v, b.v)}; }

struct Keys16 { D8 low, high; };  // lanes 0-7 and 8-15

// Doubles whose upper half is the bits of a float plus `offset`, and whose lower half is `row`.
SUITE3D_INLINE Keys16 make_keys(F16 a, int32_t row, uint32_t offset) {
  const __m512i upper = _mm512_add_epi32(_mm512_castps_si512(a.v), _mm512_set1_epi32(static_cast<int>(offset))), lower = _mm512_set1_epi64(row);
  auto join = [&](__m256i half) __attribute__((always_inline)) {
    return D8{_mm512_castsi512_pd(_mm512_or_si512(_mm512_slli_epi64(_mm512_cvtepu32_epi64(half), 32), lower))};
  };
  return {join(_mm512_castsi512_si256(upper)), join(_mm512_extracti64x4_epi64(upper, 1))};
}
SUITE3D_INLINE I16 key_halves(Keys16 keys, bool upper) {
  const int shift = upper ? 32 : 0;
  const __m256i low = _mm512_cvtepi64_epi32(_mm512_srli_epi64(_mm512_castpd_si512(keys.low.v), shift));
  const __m256i high = _mm512_cvtepi64_epi32(_mm512_srli_epi64(_mm512_castpd_si512(keys.high.v), shift));
  return {_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)};
}
SUITE3D_INLINE F16 key_floats(Keys16 keys, uint32_t offset) {
  return {_mm512_castsi512_ps(_mm512_sub_epi32(key_halves(keys, true).v, _mm512_set1_epi32(static_cast<int>(offset))))};
}
SUITE3D_INLINE I16 key_rows(Keys16 keys) { return key_halves(keys, false); }

#else

#if defined(__AVX2__)
constexpr int PIECES = 2;
using Float = __m256;
using Int = __m256i;
using Double = __m256d;
SUITE3D_INLINE Float p_load(const float* p) { return _mm256_loadu_ps(p); }
SUITE3D_INLINE void p_store(float* p, Float a) { _mm256_storeu_ps(p, a); }
SUITE3D_INLINE Float p_set(float a) { return _mm256_set1_ps(a); }
SUITE3D_INLINE Float p_mul(Float a, Float b) { Float r = _mm256_mul_ps(a, b); __asm__("" : "+x"(r)); return r; }
SUITE3D_INLINE Float p_add(Float a, Float b) { return _mm256_add_ps(a, b); }
SUITE3D_INLINE Float p_sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
SUITE3D_INLINE Float p_min(Float a, Float b) { return _mm256_min_ps(a, b); }
SUITE3D_INLINE Float p_max(Float a, Float b) { return _mm256_max_ps(a, b); }
SUITE3D_INLINE Float p_abs(Float a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a); }
SUITE3D_INLINE Float p_lt(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
SUITE3D_INLINE Float p_le(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
SUITE3D_INLINE Float p_eq(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
SUITE3D_INLINE Float p_and(Float a, Float b) { return _mm256_and_ps(a, b); }
SUITE3D_INLINE Float p_or(Float a, Float b) { return _mm256_or_ps(a, b); }
SUITE3D_INLINE Float p_select(Float m, Float a, Float b) { return _mm256_blendv_ps(b, a, m); }
SUITE3D_INLINE uint32_t p_bits(Float a) { return static_cast<uint32_t>(_mm256_movemask_ps(a)); }
SUITE3D_INLINE Float p_float(Int a) { return _mm256_castsi256_ps(a); }
SUITE3D_INLINE Int p_int(Float a) { return _mm256_castps_si256(a); }
SUITE3D_INLINE Int p_iload(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
SUITE3D_INLINE void p_istore(int32_t* p, Int a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
SUITE3D_INLINE Int p_iset(int32_t a) { return _mm256_set1_epi32(a); }
SUITE3D_INLINE Int p_ilt(Int a, Int b) { return _mm256_cmpgt_epi32(b, a); }
SUITE3D_INLINE Double p_load(const double* p) { return _mm256_loadu_pd(p); }
SUITE3D_INLINE void p_store(double* p, Double a) { _mm256_storeu_pd(p, a); }
SUITE3D_INLINE Double p_set(double a) { return _mm256_set1_pd(a); }
SUITE3D_INLINE Double p_mul(Double a, Double b) { Double r = _mm256_mul_pd(a, b); __asm__("" : "+x"(r)); return r; }
SUITE3D_INLINE Double p_add(Double a, Double b) { return _mm256_add_pd(a, b); }
SUITE3D_INLINE Double p_sub(Double a, Double b) { return _mm256_sub_pd(a, b); }
SUITE3D_INLINE Double p_div(Double a, Double b) { return _mm256_div_pd(a, b); }
SUITE3D_INLINE Double p_min(Double a, Double b) { return _mm256_min_pd(a, b); }
SUITE3D_INLINE Double p_max(Double a, Double b) { return _mm256_max_pd(a, b); }
#elif defined(__SSE2__)
constexpr int PIECES = 4;
using Float = __m128;
using Int = __m128i;
using Double = __m128d;
SUITE3D_INLINE Float p_load(const float* p) { return _mm_loadu_ps(p); }
SUITE3D_INLINE void p_store(float* p, Float a) { _mm_storeu_ps(p, a); }
SUITE3D_INLINE Float p_set(float a) { return _mm_set1_ps(a); }
SUITE3D_INLINE Float p_mul(Float a, Float b) { return _mm_mul_ps(a, b); }
SUITE3D_INLINE Float p_add(Float a, Float b) { return _mm_add_ps(a, b); }
SUITE3D_INLINE Float p_sub(Float a, Float b) { return _mm_sub_ps(a, b); }
SUITE3D_INLINE Float p_min(Float a, Float b) { return _mm_min_ps(a, b); }
SUITE3D_INLINE Float p_max(Float a, Float b) { return _mm_max_ps(a, b); }
SUITE3D_INLINE Float p_abs(Float a) { return _mm_andnot_ps(_mm_set1_ps(-0.f), a); }
SUITE3D_INLINE Float p_lt(Float a, Float b) { return _mm_cmplt_ps(a, b); }
SUITE3D_INLINE Float p_le(Float a, Float b) { return _mm_cmple_ps(a, b); }
SUITE3D_INLINE Float p_eq(Float a, Float b) { return _mm_cmpeq_ps(a, b); }
SUITE3D_INLINE Float p_and(Float a, Float b) { return _mm_and_ps(a, b); }
SUITE3D_INLINE Float p_or(Float a, Float b) { return _mm_or_ps(a, b); }
SUITE3D_INLINE Float p_select(Float m, Float a, Float b) { return _mm_or_ps(_mm_and_ps(m, a), _mm_andnot_ps(m, b)); }
SUITE3D_INLINE uint32_t p_bits(Float a) { return static_cast<uint32_t>(_mm_movemask_ps(a)); }
SUITE3D_INLINE Float p_float(Int a) { return _mm_castsi128_ps(a); }
SUITE3D_INLINE Int p_int(Float a) { return _mm_castps_si128(a); }
SUITE3D_INLINE Int p_iload(const int32_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
SUITE3D_INLINE void p_istore(int32_t* p, Int a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a); }
SUITE3D_INLINE Int p_iset(int32_t a) { return _mm_set1_epi32(a); }
SUITE3D_INLINE Int p_ilt(Int a, Int b) { return _mm_cmplt_epi32(a, b); }
SUITE3D_INLINE Double p_load(const double* p) { return _mm_loadu_pd(p); }
SUITE3D_INLINE void p_store(double* p, Double a) { _mm_storeu_pd(p, a); }
SUITE3D_INLINE Double p_set(double a) { return _mm_set1_pd(a); }
SUITE3D_INLINE Double p_mul(Double a, Double b) { return _mm_mul_pd(a, b); }
SUITE3D_INLINE Double p_add(Double a, Double b) { return _mm_add_pd(a, b); }
SUITE3D_INLINE Double p_sub(Double a, Double b) { return _mm_sub_pd(a, b); }
SUITE3D_INLINE Double p_div(Double a, Double b) { return _mm_div_pd(a, b); }
SUITE3D_INLINE Double p_min(Double a, Double b) { return _mm_min_pd(a, b); }
SUITE3D_INLINE Double p_max(Double a, Double b) { return _mm_max_pd(a, b); }
#else  // no intrinsics: one lane a piece; -ffp-contract=off is set for these files
constexpr int PIECES = 16;
using Float = float;
using Int = int32_t;
using Double = double;
SUITE3D_INLINE Int p_int(Float a) { Int r; std::memcpy(&r, &a, 4); return r; }
SUITE3D_INLINE Float p_float(Int a) { Float r; std::memcpy(&r, &a, 4); return r; }
SUITE3D_INLINE Float p_load(const float* p) { return *p; }
SUITE3D_INLINE void p_store(float* p, Float a) { *p = a; }
SUITE3D_INLINE Float p_set(float a) { return a; }
SUITE3D_INLINE Float p_mul(Float a, Float b) { return a * b; }
SUITE3D_INLINE Float p_add(Float a, Float b) { return a + b; }
SUITE3D_INLINE Float p_sub(Float a, Float b) { return a - b; }
SUITE3D_INLINE Float p_min(Float a, Float b) { return a < b ? a : b; }
SUITE3D_INLINE Float p_max(Float a, Float b) { return a > b ? a : b; }
SUITE3D_INLINE Float p_abs(Float a) { return p_float(p_int(a) & 0x7fffffff); }
SUITE3D_INLINE Float p_lt(Float a, Float b) { return p_float(a < b ? -1 : 0); }
SUITE3D_INLINE Float p_le(Float a, Float b) { return p_float(a <= b ? -1 : 0); }
SUITE3D_INLINE Float p_eq(Float a, Float b) { return p_float(a == b ? -1 : 0); }
SUITE3D_INLINE Float p_and(Float a, Float b) { return p_float(p_int(a) & p_int(b)); }
SUITE3D_INLINE Float p_or(Float a, Float b) { return p_float(p_int(a) | p_int(b)); }
SUITE3D_INLINE Float p_select(Float m, Float a, Float b) { return p_int(m) ? a : b; }
SUITE3D_INLINE uint32_t p_bits(Float a) { return p_int(a) ? 1u : 0u; }
SUITE3D_INLINE Int p_iload(const int32_t* p) { return *p; }
SUITE3D_INLINE void p_istore(int32_t* p, Int a) { *p = a; }
SUITE3D_INLINE Int p_iset(int32_t a) { return a; }
SUITE3D_INLINE Int p_ilt(Int a, Int b) { return a < b ? -1 : 0; }
SUITE3D_INLINE Double p_load(const double* p) { return *p; }
SUITE3D_INLINE void p_store(double* p, Double a) { *p = a; }
SUITE3D_INLINE Double p_set(double a) { return a; }
SUITE3D_INLINE Double p_mul(Double a, Double b) { return a * b; }
SUITE3D_INLINE Double p_add(Double a, Double b) { return a + b; }
SUITE3D_INLINE Double p_sub(Double a, Double b) { return a - b; }
SUITE3D_INLINE Double p_div(Double a, Double b) { return a / b; }
SUITE3D_INLINE Double p_min(Double a, Double b) { return a < b ? a : b; }
SUITE3D_INLINE Double p_max(Double a, Double b) { return a > b ? a : b; }
#endif

constexpr int WIDTH = 16 / PIECES;
constexpr int DPIECES = PIECES == 16 ? 8 : PIECES;
constexpr int DWIDTH = 8 / DPIECES;

struct F16 { Float v[PIECES]; };
struct I16 { Int v[PIECES]; };
struct M16 { Float v[PIECES]; };
struct D8 { Double v[DPIECES]; };

#define SUITE3D_EACH(type, count, expression) \
  type r;                                     \
  for (int i = 0; i < count; ++i) r.v[i] = expression; \
  return r

SUITE3D_INLINE F16 load(const float* p) { SUITE3D_EACH(F16, PIECES, p_load(p + i * WIDTH)); }
SUITE3D_INLINE void store(float* p, F16 a) { for (int i = 0; i < PIECES; ++i) p_store(p + i * WIDTH, a.v[i]); }
SUITE3D_INLINE F16 set1(float a) { SUITE3D_EACH(F16, PIECES, p_set(a)); }
SUITE3D_INLINE F16 operator*(F16 a, F16 b) { SUITE3D_EACH(F16, PIECES, p_mul(a.v[i], b.v[i])); }
SUITE3D_INLINE F16 operator+(F16 a, F16 b) { SUITE3D_EACH(F16, PIECES, p_add(a.v[i], b.v[i])); }
SUITE3D_INLINE F16 operator-(F16 a, F16 b) { SUITE3D_EACH(F16, PIECES, p_sub(a.v[i], b.v[i])); }
SUITE3D_INLINE F16 min(F16 a, F16 b) { SUITE3D_EACH(F16, PIECES, p_min(a.v[i], b.v[i])); }
SUITE3D_INLINE F16 max(F16 a, F16 b) { SUITE3D_EACH(F16, PIECES, p_max(a.v[i], b.v[i])); }
SUITE3D_INLINE F16 abs(F16 a) { SUITE3D_EACH(F16, PIECES, p_abs(a.v[i])); }
SUITE3D_INLINE M16 operator<(F16 a, F16 b) { SUITE3D_EACH(M16, PIECES, p_lt(a.v[i], b.v[i])); }
SUITE3D_INLINE M16 operator<=(F16 a, F16 b) { SUITE3D_EACH(M16, PIECES, p_le(a.v[i], b.v[i])); }
SUITE3D_INLINE M16 operator==(F16 a, F16 b) { SUITE3D_EACH(M16, PIECES, p_eq(a.v[i], b.v[i])); }
SUITE3D_INLINE M16 operator&(M16 a, M16 b) { SUITE3D_EACH(M16, PIECES, p_and(a.v[i], b.v[i])); }
SUITE3D_INLINE M16 operator|(M16 a, M16 b) { SUITE3D_EACH(M16, PIECES, p_or(a.v[i], b.v[i])); }
SUITE3D_INLINE uint32_t bits(M16 a) {
  uint32_t r = 0;
  for (int i = 0; i < PIECES; ++i) r |= p_bits(a.v[i]) << (i * WIDTH);
  return r;
}
SUITE3D_INLINE F16 select(M16 m, F16 a, F16 b) { SUITE3D_EACH(F16, PIECES, p_select(m.v[i], a.v[i], b.v[i])); }
SUITE3D_INLINE I16 select(M16 m, I16 a, I16 b) { SUITE3D_EACH(I16, PIECES, p_int(p_select(m.v[i], p_float(a.v[i]), p_float(b.v[i])))); }
SUITE3D_INLINE I16 set1(int32_t a) { SUITE3D_EACH(I16, PIECES, p_iset(a)); }
SUITE3D_INLINE M16 operator<(I16 a, I16 b) { SUITE3D_EACH(M16, PIECES, p_float(p_ilt(a.v[i], b.v[i]))); }
SUITE3D_INLINE I16 load(const int32_t* p) { SUITE3D_EACH(I16, PIECES, p_iload(p + i * WIDTH)); }
SUITE3D_INLINE void store(int32_t* p, I16 a) { for (int i = 0; i < PIECES; ++i) p_istore(p + i * WIDTH, a.v[i]); }
SUITE3D_INLINE float reduce_max(F16 a) {
  float lane[16], r;
  store(lane, a);
  r = lane[0];
  for (int i = 1; i < 16; ++i) r = lane[i] > r ? lane[i] : r;
  return r;
}
SUITE3D_INLINE float reduce_min(F16 a) {
  float lane[16], r;
  store(lane, a);
  r = lane[0];
  for (int i = 1; i < 16; ++i) r = lane[i] < r ? lane[i] : r;
  return r;
}

SUITE3D_INLINE D8 load8(const double* p) { SUITE3D_EACH(D8, DPIECES, p_load(p + i * DWIDTH)); }
SUITE3D_INLINE void store8(double* p, D8 a) { for (int i = 0; i < DPIECES; ++i) p_store(p + i * DWIDTH, a.v[i]); }
SUITE3D_INLINE D8 set8(double a) { SUITE3D_EACH(D8, DPIECES, p_set(a)); }
SUITE3D_INLINE D8 operator*(D8 a, D8 b) { SUITE3D_EACH(D8, DPIECES, p_mul(a.v[i], b.v[i])); }
SUITE3D_INLINE D8 operator+(D8 a, D8 b) { SUITE3D_EACH(D8, DPIECES, p_add(a.v[i], b.v[i])); }
SUITE3D_INLINE D8 operator-(D8 a, D8 b) { SUITE3D_EACH(D8, DPIECES, p_sub(a.v[i], b.v[i])); }
SUITE3D_INLINE D8 operator/(D8 a, D8 b) { SUITE3D_EACH(D8, DPIECES, p_div(a.v[i], b.v[i])); }
SUITE3D_INLINE D8 min(D8 a, D8 b) { SUITE3D_EACH(D8, DPIECES, p_min(a.v[i], b.v[i])); }
SUITE3D_INLINE D8 max(D8 a, D8 b) { SUITE3D_EACH(D8, DPIECES, p_max(a.v[i], b.v[i])); }

struct Keys16 { D8 low, high; };  // lanes 0-7 and 8-15

// Doubles whose upper half is the bits of a float plus `offset`, and whose lower half is `row`.
SUITE3D_INLINE Keys16 make_keys(F16 a, int32_t row, uint32_t offset) {
  Keys16 r;
#if defined(__AVX2__)
  for (int i = 0; i < 4; ++i) {
    const __m128i bits = _mm_castps_si128(i & 1 ? _mm256_extractf128_ps(a.v[i / 2], 1) : _mm256_castps256_ps128(a.v[i / 2]));
    const __m128i upper = _mm_add_epi32(bits, _mm_set1_epi32(static_cast<int>(offset)));
    const __m256i joined = _mm256_or_si256(_mm256_slli_epi64(_mm256_cvtepu32_epi64(upper), 32), _mm256_set1_epi64x(row));
    (i < 2 ? r.low : r.high).v[i & 1] = _mm256_castsi256_pd(joined);
  }
#elif defined(__SSE2__)
  const __m128i lower = _mm_set1_epi32(row);
  for (int i = 0; i < 4; ++i) {
    const __m128i upper = _mm_add_epi32(_mm_castps_si128(a.v[i]), _mm_set1_epi32(static_cast<int>(offset)));
    (i < 2 ? r.low : r.high).v[2 * (i & 1)] = _mm_castsi128_pd(_mm_unpacklo_epi32(lower, upper));
    (i < 2 ? r.low : r.high).v[2 * (i & 1) + 1] = _mm_castsi128_pd(_mm_unpackhi_epi32(lower, upper));
  }
#else
  for (int i = 0; i < 16; ++i) {
    const uint64_t whole = static_cast<uint64_t>(static_cast<uint32_t>(p_int(a.v[i])) + offset) << 32 | static_cast<uint32_t>(row);
    std::memcpy(&(i < 8 ? r.low : r.high).v[i % 8], &whole, 8);
  }
#endif
  return r;
}
SUITE3D_INLINE I16 key_halves(Keys16 keys, bool upper) {
  alignas(64) double lanes[16];
  alignas(64) int32_t halves[32], r[16];
  store8(lanes, keys.low), store8(lanes + 8, keys.high);
  std::memcpy(halves, lanes, sizeof(lanes));
  for (int i = 0; i < 16; ++i) r[i] = halves[2 * i + (upper ? 1 : 0)];  // little endian, as every machine torch runs on
  return load(r);
}
SUITE3D_INLINE F16 key_floats(Keys16 keys, uint32_t offset) {
  int32_t upper[16];
  float r[16];
  store(upper, key_halves(keys, true));
  for (int i = 0; i < 16; ++i) upper[i] -= static_cast<int32_t>(offset);
  std::memcpy(r, upper, sizeof(r));
  return load(r);
}
SUITE3D_INLINE I16 key_rows(Keys16 keys) { return key_halves(keys, false); }

#endif

SUITE3D_INLINE F16 square_sum(F16 x, F16 y, F16 z) { return x * x + y * y + z * z; }

// Squared distance between a box and sixteen boxes: a lower bound, rounded as the distances themselves are, of every distance
// between a point of the one and a point of the other.
SUITE3D_INLINE F16 box_distance(const float* const* lower, const float* const* upper, int64_t at, const float* low, const float* high) {
  const F16 zero = set1(0.f);
  F16 gap[3];
  for (int axis = 0; axis < 3; ++axis)
    gap[axis] = max(max(load(lower[axis] + at) - set1(high[axis]), set1(low[axis]) - load(upper[axis] + at)), zero);
  return square_sum(gap[0], gap[1], gap[2]);
}

}  // namespace
