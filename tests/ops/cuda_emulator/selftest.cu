// Small right and wrong kernels, for the tests of the emulator itself. Each function returns what went wrong, or "".
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

std::string said;

template <class F>
const char* attempt(F f) {
  said.clear();
  try {
    f();
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) said = cudaGetErrorString(error);
  } catch (const std::runtime_error& error) {
    said = error.what();
  }
  return said.c_str();
}

// Sum of a block by halves. `mistake` 1: no barrier after the values are written; 2: none between the halves.
template <int THREADS>
__global__ void __launch_bounds__(THREADS) sum_kernel(const int* in, int* out, int mistake) {
  __shared__ int room[THREADS];
  room[threadIdx.x] = in[blockIdx.x * THREADS + threadIdx.x];
  if (mistake != 1) __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
    if (mistake != 2) __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = room[0];
}

__global__ void diverging_kernel(int kind) {
  if (kind == 0 && threadIdx.x < 40) return;  // some have returned
  if (kind == 1 && threadIdx.x % 2) {
    __syncthreads();
    return;
  }
  if (kind == 2) __shfl_sync(0xffff0000u, 1, 0);                             // lanes outside of their own mask
  if (kind == 3 && threadIdx.x % 32 == 5) return;                            // a lane that the others wait for
  if (kind == 3) __ballot_sync(0xffffffffu, 1);
  if (kind == 4 && threadIdx.x % 32 < 16) __syncwarp(0xffffffffu);           // half a warp here, the other half at the barrier
  __syncthreads();
}

// Values of every warp operation, one row of 32 for each; the warps beyond the first check themselves on a partial warp.
__global__ void warp_kernel(int* out) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = blockDim.x - 32 * warp < 32 ? blockDim.x - 32 * warp : 32;
  const unsigned all = 0xffffffffu;
  const int values[] = {__shfl_sync(all, lane * 3, 7, 8),
                        __shfl_xor_sync(all, lane * 3, 5),
                        __shfl_up_sync(all, lane * 3, 2, 16),
                        __shfl_down_sync(all, lane * 3, 3, 16),
                        static_cast<int>(__ballot_sync(all, lane % 3 == 0)),
                        static_cast<int>(__match_any_sync(all, lane % 4)),
                        lane % 2 ? static_cast<int>(__reduce_max_sync(0xaaaaaaaau, static_cast<unsigned>(lane))) : -1,
                        __any_sync(all, lane == 3),
                        __all_sync(all, lane < width)};
  for (int i = 0; i < 9; ++i)
    if (warp == 0) out[32 * i + lane] = values[i];
}

__global__ void uninitialised_kernel(int* out) {
  __shared__ int room[32];
  out[threadIdx.x] = room[threadIdx.x];
}

__global__ void dynamic_kernel(int* out, int words) {
  extern __shared__ int room[];
  for (int i = threadIdx.x; i < words; i += blockDim.x) room[i] = i;
  __syncthreads();
  if (threadIdx.x == 0) out[0] = room[words - 1];
}

__global__ void atomic_kernel(const int* in, int count, int* bins, unsigned long long* largest, float* total) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    atomicAdd(&bins[in[i]], 1);
    atomicMax(largest, static_cast<unsigned long long>(in[i]) << 32 | i);
    unsigned* word = reinterpret_cast<unsigned*>(total);  // a sum by compare-and-swap
    for (unsigned old = *word, seen;; old = seen)
      if ((seen = atomicCAS(word, old, __float_as_uint(__uint_as_float(old) + in[i]))) == old) break;
  }
}

__global__ void visit_kernel(int* visits) {
  const dim3 b = blockDim, g = gridDim;
  const unsigned block = (blockIdx.z * g.y + blockIdx.y) * g.x + blockIdx.x, thread = (threadIdx.z * b.y + threadIdx.y) * b.x + threadIdx.x;
  visits[block * b.x * b.y * b.z + thread] += 1;
}

}  // namespace

EXPORT const char* sum_of_blocks(const int* in, int* out, int blocks, int mistake) {
  return attempt([&] {
    auto kernel = sum_kernel<128>;
    kernel<<<blocks, 128, 0, nullptr>>>(in, out, mistake);
  });
}
EXPORT const char* diverge(int kind) {
  return attempt([&] { diverging_kernel<<<2, 64>>>(kind); });
}
EXPORT const char* warp_operations(int threads, int* out) {
  return attempt([&] { warp_kernel<<<1, threads>>>(out); });
}
EXPORT const char* uninitialised(int* out) {
  return attempt([&] { uninitialised_kernel<<<1, 32>>>(out); });
}
EXPORT const char* dynamic_memory(int bytes, bool allow, int used, int* out) {
  return attempt([&] {
    if (allow) cudaFuncSetAttribute(dynamic_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    dynamic_kernel<<<1, 64, bytes>>>(out, used / 4);
  });
}
EXPORT const char* histogram(const int* in, int count, int* bins, unsigned long long* largest, float* total) {
  return attempt([&] { atomic_kernel<<<3, 96>>>(in, count, bins, largest, total); });
}
EXPORT const char* visit(int gx, int gy, int gz, int bx, int by, int bz, int* visits) {
  return attempt([&] { visit_kernel<<<dim3(gx, gy, gz), dim3(bx, by, bz)>>>(visits); });
}
// Reads what came from the device before and after the wait.
EXPORT const char* copy_back(int value, int* before, int* after) {
  int here = 0;
  cudaMemcpyAsync(&here, &value, sizeof(int), cudaMemcpyDeviceToHost, nullptr);
  *before = here;
  cudaStreamSynchronize(nullptr);
  *after = here;
  return "";
}
template <class Key>
int sort(const Key* keys, Key* keys_out, const int* values, int* values_out, int count, int begin, int end, int memory) {
  size_t size = 0;
  cub::DeviceRadixSort::SortPairs(nullptr, size, keys, keys_out, values, values_out, count, begin, end);
  std::vector<char> room(size);
  size -= memory;
  return cub::DeviceRadixSort::SortPairs(room.data(), size, keys, keys_out, values, values_out, count, begin, end);
}
EXPORT int sort_long(const long long* keys, long long* keys_out, const int* values, int* values_out, int count, int begin, int end, int missing) {
  return sort(keys, keys_out, values, values_out, count, begin, end, missing);
}
EXPORT int sort_float(const float* keys, float* keys_out, const int* values, int* values_out, int count) {
  return sort(keys, keys_out, values, values_out, count, 0, 32, 0);
}
EXPORT int sum_up(const int* in, long long* out, int count, bool wide) {
  size_t size = 0;
  const auto sum = [](long long a, long long b) { return a + b; };
  cub::DeviceScan::InclusiveSum(nullptr, size, in, out, count);
  std::vector<char> room(size);
  if (wide) return cub::DeviceScan::InclusiveScan(room.data(), size, in, out, sum, count);
  return cub::DeviceScan::InclusiveSum(room.data(), size, in, out, count);
}
