// Geometry on the device, rounded as on the host: no fused multiply-adds where results are compared for equality.
#pragma once

#include "common_cuda.cuh"

namespace suite3d {

__device__ inline float product_sum(float ax, float bx, float ay, float by) { return __fadd_rn(__fmul_rn(ax, bx), __fmul_rn(ay, by)); }

__device__ inline float squared_distance(const float* p, float x, float y, float z) {
  const float dx = __fsub_rn(p[0], x), dy = __fsub_rn(p[1], y), dz = __fsub_rn(p[2], z);
  return __fadd_rn(product_sum(dx, dx, dy, dy), __fmul_rn(dz, dz));
}

// The cloud that row `row` belongs to: the last b with ends[b] <= row (empty clouds are passed over).
__device__ inline int64_t cloud_of(const int64_t* ends, int64_t clouds, int64_t row) { return lower_bound(ends, clouds + 1, row + 1) - 1; }

// One thread a row, as many blocks as it takes.
template <class Kernel, class... Arguments>
void launch_rows(Kernel kernel, int64_t rows, int threads, cudaStream_t stream, Arguments... arguments) {
  if (rows <= 0) return;
  kernel<<<static_cast<unsigned>((rows + threads - 1) / threads), threads, 0, stream>>>(arguments...);
  SUITE3D_CUDA(cudaGetLastError());
}

}  // namespace suite3d
