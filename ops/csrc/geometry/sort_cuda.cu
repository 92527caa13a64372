// Sorting and sums through CUB, once for all ops: each use of it costs half a megabyte of machine code and ten seconds of nvcc.
#include "common_cuda.cuh"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

namespace suite3d {

template <class Key, class Value>
void sort_pairs(const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out, int64_t count, int bits, const Tensor& like,
                cudaStream_t stream) {
  if (count == 0) return;
  size_t size = 0;
  SUITE3D_CUDA(cub::DeviceRadixSort::SortPairs(nullptr, size, keys_in, keys_out, values_in, values_out, count, 0, bits, stream));
  const Tensor scratch = bytes(static_cast<int64_t>(size), like);
  SUITE3D_CUDA(cub::DeviceRadixSort::SortPairs(mutable_data<uint8_t>(scratch), size, keys_in, keys_out, values_in, values_out, count, 0, bits, stream));
}

template <class Key>
void sort_keys(const Key* keys_in, Key* keys_out, int64_t count, int bits, const Tensor& like, cudaStream_t stream) {
  if (count == 0) return;
  size_t size = 0;
  SUITE3D_CUDA(cub::DeviceRadixSort::SortKeys(nullptr, size, keys_in, keys_out, count, 0, bits, stream));
  const Tensor scratch = bytes(static_cast<int64_t>(size), like);
  SUITE3D_CUDA(cub::DeviceRadixSort::SortKeys(mutable_data<uint8_t>(scratch), size, keys_in, keys_out, count, 0, bits, stream));
}

// By its result CUB chooses the type that it adds up in; of plain int32 counts that would be int32.
struct LongSum {
  __host__ __device__ int64_t operator()(int64_t a, int64_t b) const { return a + b; }
};

template <class Count>
void inclusive_sum(const Count* in, int64_t* out, int64_t count, const Tensor& like, cudaStream_t stream) {
  if (count == 0) return;
  size_t size = 0;
  SUITE3D_CUDA(cub::DeviceScan::InclusiveScan(nullptr, size, in, out, LongSum{}, count, stream));
  const Tensor scratch = bytes(static_cast<int64_t>(size), like);
  SUITE3D_CUDA(cub::DeviceScan::InclusiveScan(mutable_data<uint8_t>(scratch), size, in, out, LongSum{}, count, stream));
}

template void sort_pairs(const uint32_t*, uint32_t*, const int32_t*, int32_t*, int64_t, int, const Tensor&, cudaStream_t);
template void sort_pairs(const uint64_t*, uint64_t*, const int32_t*, int32_t*, int64_t, int, const Tensor&, cudaStream_t);
template void sort_pairs(const uint64_t*, uint64_t*, const int64_t*, int64_t*, int64_t, int, const Tensor&, cudaStream_t);
template void sort_keys(const uint32_t*, uint32_t*, int64_t, int, const Tensor&, cudaStream_t);
template void sort_keys(const uint64_t*, uint64_t*, int64_t, int, const Tensor&, cudaStream_t);
template void inclusive_sum(const int32_t*, int64_t*, int64_t, const Tensor&, cudaStream_t);
template void inclusive_sum(const int64_t*, int64_t*, int64_t, const Tensor&, cudaStream_t);

}  // namespace suite3d
