// What every CUDA kernel needs: the current stream, launches that are checked, sorting and sums.
#pragma once

#include "common.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <cuda_runtime.h>

// Only a CUDA torch has it. Weak, so that the library loads (and its registrations can be checked) beside a CPU torch too.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

#define SUITE3D_CUDA(call)                                                                               \
  do {                                                                                                   \
    const cudaError_t status = (call);                                                                   \
    SUITE3D_CHECK(status == cudaSuccess, "CUDA error: ", cudaGetErrorString(status), " in " #call);      \
  } while (0)

namespace suite3d {

// The device of a tensor made current, and the stream that torch uses on it.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

template <class F>
__global__ void for_each_kernel(int64_t count, F f) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) f(i);
}

// f(i) for i in [0, count), one thread each.
template <class F>
void for_each(int64_t count, cudaStream_t stream, F f) {
  if (count <= 0) return;
  const int64_t blocks = std::min<int64_t>((count + 255) / 256, 1 << 20);
  for_each_kernel<<<static_cast<unsigned>(blocks), 256, 0, stream>>>(count, f);
  SUITE3D_CUDA(cudaGetLastError());
}

// Device memory from torch's allocator, which orders reuse by stream.
inline Tensor bytes(int64_t count, const Tensor& like) { return empty({std::max<int64_t>(count, 1)}, ScalarType::Byte, like); }

template <class T>
struct Buffer {
  Tensor memory;
  T* get() const { return reinterpret_cast<T*>(mutable_data<uint8_t>(memory)); }
  Buffer(int64_t count, const Tensor& like) : memory(bytes(count * static_cast<int64_t>(sizeof(T)), like)) {}
};

// Stable sort of (key, value) by the lowest `bits` bits of the key; the types are those of geometry/sort_cuda.cu.
template <class Key, class Value>
void sort_pairs(const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out, int64_t count, int bits, const Tensor& like,
                cudaStream_t stream);

template <class Key>
void sort_keys(const Key* keys_in, Key* keys_out, int64_t count, int bits, const Tensor& like, cudaStream_t stream);

// out[i] = in[0] + ... + in[i], in int64 whatever comes in.
template <class Count>
void inclusive_sum(const Count* in, int64_t* out, int64_t count, const Tensor& like, cudaStream_t stream);

// Values from the device; waits for the stream. Only where a size must be known.
template <class T>
T read_one(const T* device, cudaStream_t stream) {
  T value;
  SUITE3D_CUDA(cudaMemcpyAsync(&value, device, sizeof(T), cudaMemcpyDeviceToHost, stream));
  SUITE3D_CUDA(cudaStreamSynchronize(stream));
  return value;
}

// First position in sorted[0, count) whose value is not less than `value`.
template <class T>
__host__ __device__ inline int64_t lower_bound(const T* sorted, int64_t count, T value) {
  int64_t low = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    if (sorted[low + half] < value) {
      low += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return low;
}

// Row of `value` in sorted[0, count), -1 if absent.
template <class T>
__host__ __device__ inline int32_t find(const T* sorted, int64_t count, T value) {
  const int64_t at = lower_bound(sorted, count, value);
  return at < count && sorted[at] == value ? static_cast<int32_t>(at) : -1;
}

}  // namespace suite3d
