// Exact furthest point sampling, one block a cloud. Clouds of up to 8192 points live in registers; larger ones keep their distances in
// global memory. The values (offsets, counts, starts, finite coordinates) are checked in Python.
#include "geometry/device.cuh"

namespace suite3d {
namespace {

constexpr int THREADS = 1024, WARPS = THREADS / 32;
constexpr unsigned ALL = 0xffffffffu;

// Larger is further; of equals the lower row is larger.
__device__ inline unsigned long long make_key(float distance, int row) {
  return static_cast<unsigned long long>(__float_as_uint(distance)) << 32 | (ALL - static_cast<unsigned>(row));
}

__device__ inline unsigned long long warp_max(unsigned long long key) {
  for (int step = 16; step > 0; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(ALL, key, step);
    key = other > key ? other : key;
  }
  return key;
}

// Largest key of the block in every thread. `room` alternates between calls, so that one barrier is enough.
__device__ inline unsigned long long block_max(unsigned long long key, unsigned long long* room) {
  key = warp_max(key);
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = key;
  __syncthreads();
  return warp_max(room[threadIdx.x % 32]);
}

struct Batch {
  const float* xyz;
  const int64_t *ends, *first, *out_ends;  // out_ends[b]: samples before and with cloud b
  const int64_t* wanted;
  int64_t* chosen;
};

// PER_THREAD > 0: points and distances in registers. 0: distances in `nearest`, for clouds of any size.
template <int PER_THREAD>
__global__ void __launch_bounds__(THREADS) fps_kernel(Batch batch, float* nearest, int64_t smallest, int64_t largest) {
  __shared__ unsigned long long room[2][WARPS];
  const int64_t b = blockIdx.x, begin = batch.ends[b];
  const int64_t size = batch.ends[b + 1] - begin, count = batch.wanted[b];
  if (count <= 0 || size < smallest || size > largest) return;
  const float* points = batch.xyz + 3 * begin;
  int64_t* chosen = batch.chosen + batch.out_ends[b] - count;
  constexpr int HELD = PER_THREAD > 0 ? PER_THREAD : 1;
  float x[HELD], y[HELD], z[HELD], held[HELD];
  if (PER_THREAD > 0) {
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
      const int64_t row = threadIdx.x + int64_t{i} * THREADS;
      const bool exists = row < size;
      x[i] = exists ? points[3 * row] : 0.f, y[i] = exists ? points[3 * row + 1] : 0.f, z[i] = exists ? points[3 * row + 2] : 0.f;
      held[i] = INFINITY;
    }
  } else {
    for (int64_t row = threadIdx.x; row < size; row += THREADS) nearest[begin + row] = INFINITY;
  }
  int64_t current = batch.first[b] - begin;
  for (int64_t step = 0; step < count; ++step) {
    if (threadIdx.x == 0) chosen[step] = begin + current;
    if (step + 1 == count) return;
    const float cx = points[3 * current], cy = points[3 * current + 1], cz = points[3 * current + 2];
    unsigned long long best = 0;  // below every key: rows are counted down from ALL
    if (PER_THREAD > 0) {
#pragma unroll
      for (int i = 0; i < HELD; ++i) {
        const int64_t row = threadIdx.x + int64_t{i} * THREADS;
        const float point[3] = {x[i], y[i], z[i]};
        held[i] = fminf(held[i], squared_distance(point, cx, cy, cz));
        const unsigned long long key = row < size ? make_key(held[i], static_cast<int>(row)) : 0;
        best = key > best ? key : best;
      }
    } else {
      for (int64_t row = threadIdx.x; row < size; row += THREADS) {
        const float least = fminf(nearest[begin + row], squared_distance(points + 3 * row, cx, cy, cz));
        nearest[begin + row] = least;
        const unsigned long long key = make_key(least, static_cast<int>(row));
        best = key > best ? key : best;
      }
    }
    best = block_max(best, room[step & 1]);
    current = ALL - static_cast<unsigned>(best);
  }
}

Tensor furthest_point_sample(Tensor xyz, Tensor offsets, Tensor counts, Tensor start, int64_t total) {
  xyz = as_contiguous(xyz), offsets = as_contiguous(offsets), counts = as_contiguous(counts), start = as_contiguous(start);
  const OnDevice device(xyz);
  const cudaStream_t stream = device.stream();
  const int64_t clouds = offsets.size(0) - 1;
  if (clouds <= 0) return empty({0}, ScalarType::Long, offsets);
  const Buffer<int64_t> out_ends(clouds, offsets);
  size_t size = 0;
  SUITE3D_CUDA(cub::DeviceScan::InclusiveSum(nullptr, size, data<int64_t>(counts), out_ends.get(), clouds, stream));
  const Tensor scratch = bytes(static_cast<int64_t>(size), offsets);
  SUITE3D_CUDA(cub::DeviceScan::InclusiveSum(mutable_data<uint8_t>(scratch), size, data<int64_t>(counts), out_ends.get(), clouds, stream));
  if (total < 0) total = read_one(out_ends.get() + clouds - 1, stream);
  const Tensor result = empty({total}, ScalarType::Long, offsets);
  if (total == 0) return result;
  const Buffer<float> nearest(xyz.size(0), xyz);
  const Batch batch{data<float>(xyz), data<int64_t>(offsets), data<int64_t>(start), out_ends.get(), data<int64_t>(counts),
                    mutable_data<int64_t>(result)};
  const unsigned blocks = static_cast<unsigned>(clouds);
  const int64_t rows = xyz.size(0);  // no cloud is larger: sizes that cannot occur are not launched
  auto launch = [&](auto kernel, int64_t smallest, int64_t largest) {
    if (rows < smallest) return;
    kernel<<<blocks, THREADS, 0, stream>>>(batch, nearest.get(), smallest, largest);
    SUITE3D_CUDA(cudaGetLastError());
  };
  launch(fps_kernel<1>, 1, THREADS);
  launch(fps_kernel<2>, THREADS + 1, 2 * THREADS);
  launch(fps_kernel<4>, 2 * THREADS + 1, 4 * THREADS);
  launch(fps_kernel<8>, 4 * THREADS + 1, 8 * THREADS);
  launch(fps_kernel<0>, 8 * THREADS + 1, INT64_MAX);
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) { m.impl("furthest_point_sample", TORCH_BOX(&suite3d::furthest_point_sample)); }
