// cub::DeviceScan: prefix sums, with the same protocol for temporary memory. In place is allowed.
#pragma once

#include "cub/device/device_radix_sort.cuh"

namespace cub {

struct DeviceScan {
  template <class In, class Out>
  static cudaError_t InclusiveSum(void* temporary, size_t& size, In in, Out out, int64_t count, cudaStream_t = nullptr) {
    return scan(temporary, size, in, out, count, true);
  }
  template <class In, class Out>
  static cudaError_t ExclusiveSum(void* temporary, size_t& size, In in, Out out, int64_t count, cudaStream_t = nullptr) {
    return scan(temporary, size, in, out, count, false);
  }

 private:
  // As in CUB, sums are accumulated in the type of the values that come in, and converted when written.
  template <class In, class Out>
  static cudaError_t scan(void* temporary, size_t& size, In in, Out out, int64_t count, bool inclusive) {
    cudaError_t status;
    if (emulated::asks(temporary, size, 64 + count / 16, status)) return status;
    if (count < 0) return cudaErrorInvalidValue;
    using Sum = std::decay_t<decltype(in[0])>;
    Sum sum{};
    for (int64_t i = 0; i < count; ++i) {
      const Sum value = in[i];
      out[i] = inclusive ? static_cast<Sum>(sum + value) : sum;
      sum = static_cast<Sum>(sum + value);
    }
    return cudaSuccess;
  }
};

}  // namespace cub
