// Furthest point sampling of clouds that fit one block: every distance at every step, one barrier a sample.
#pragma once

#include "fps/fps_batch.cuh"

namespace suite3d {

template <int PER_THREAD>
constexpr int HELD_COORDINATES = PER_THREAD < 8 ? PER_THREAD : 8;  // more do not fit the 64 registers of a thread of 1024

// Distances, and the coordinates of the first points of a thread, are in registers; the coordinates of all are in shared memory too:
// those of the point just chosen are read there, at once, by everybody.
template <int THREADS, int PER_THREAD>
__global__ void __launch_bounds__(THREADS) fps_scan_kernel(Batch batch, int64_t smallest, int64_t largest) {
  constexpr int WARPS = THREADS / 32, ROOM = THREADS * PER_THREAD, HELD = HELD_COORDINATES<PER_THREAD>;
  extern __shared__ float axes[];  // x of all, y of all, z of all
  __shared__ Furthest room[2][WARPS];  // by turns, so that one barrier is enough
  const Cloud cloud(batch, blockIdx.x);
  if (cloud.count <= 0 || cloud.size < smallest || cloud.size > largest) return;
  const int thread = threadIdx.x, lane = thread % 32, size = static_cast<int>(cloud.size);
  float x[HELD], y[HELD], z[HELD], nearest[PER_THREAD];
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) {
    const int row = thread + i * THREADS;
    float p[3] = {0, 0, 0};
    if (row < size)
      for (int axis = 0; axis < 3; ++axis) p[axis] = cloud.points[3 * row + axis];
    axes[row] = p[0], axes[ROOM + row] = p[1], axes[2 * ROOM + row] = p[2];
    if (i < HELD) x[i] = p[0], y[i] = p[1], z[i] = p[2];
    nearest[i] = row < size ? INFINITY : -1.f;  // stays so: below every distance
  }
  __syncthreads();
  int current = static_cast<int>(cloud.start);
  for (int64_t step = 0; step < cloud.count; ++step) {
    if (thread == 0) cloud.chosen[step] = cloud.begin + current;
    if (step + 1 == cloud.count) return;
    const float cx = axes[current], cy = axes[ROOM + current], cz = axes[2 * ROOM + current];
    float furthest = -1.f;
    int at = 0;
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) {
      const int row = thread + i * THREADS;
      const float point[3] = {i < HELD ? x[i % HELD] : axes[row], i < HELD ? y[i % HELD] : axes[ROOM + row],
                              i < HELD ? z[i % HELD] : axes[2 * ROOM + row]};
      nearest[i] = fminf(nearest[i], squared_distance(point, cx, cy, cz));
      if (nearest[i] > furthest) furthest = nearest[i], at = i;  // the first, so the lowest row, of equals
    }
    const Furthest of_warp = warp_furthest({__float_as_int(furthest), thread + at * THREADS});
    if (lane == 0) room[step & 1][thread / 32] = of_warp;
    __syncthreads();
    current = warp_furthest(lane < WARPS ? room[step & 1][lane] : Furthest{-1, INT_MAX}).row;
  }
}

// Bytes of shared memory for the coordinates of clouds of `rows` points.
constexpr int scan_bytes(int rows) { return 3 * rows * static_cast<int>(sizeof(float)); }

// Sample the clouds of smallest to THREADS * PER_THREAD points.
template <int THREADS, int PER_THREAD>
void fps_scan(const Batch& batch, int64_t clouds, int64_t smallest, int64_t largest, cudaStream_t stream) {
  if (largest < smallest) return;
  constexpr int ROOM = THREADS * PER_THREAD, SHARED = scan_bytes(ROOM);
  auto kernel = fps_scan_kernel<THREADS, PER_THREAD>;
  SUITE3D_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
  kernel<<<static_cast<unsigned>(clouds), THREADS, SHARED, stream>>>(batch, smallest, int64_t{ROOM});
  SUITE3D_CUDA(cudaGetLastError());
}

}  // namespace suite3d
