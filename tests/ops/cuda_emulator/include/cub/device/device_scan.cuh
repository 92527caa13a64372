// cub::DeviceScan: prefix sums, with the same protocol for temporary memory. In place is allowed.
#pragma once

#include "cub/device/device_radix_sort.cuh"

namespace cub {

struct DeviceScan {
  template <class In, class Out>
  static cudaError_t InclusiveSum(void* temporary, size_t& size, In in, Out out, int64_t count, cudaStream_t = nullptr) {
    return InclusiveScan(temporary, size, in, out, Plus{}, count);
  }
  // As in CUB, what is carried on has the type that the operation gives for two values that come in.
  template <class In, class Out, class Operation>
  static cudaError_t InclusiveScan(void* temporary, size_t& size, In in, Out out, Operation operation, int64_t count, cudaStream_t = nullptr) {
    cudaError_t status;
    if (emulated::asks(temporary, size, 64 + count / 16, status)) return status;
    if (count < 0) return cudaErrorInvalidValue;
    using Carried = std::decay_t<decltype(operation(in[0], in[0]))>;
    Carried carried{};
    for (int64_t i = 0; i < count; ++i) {
      carried = i == 0 ? static_cast<Carried>(in[i]) : static_cast<Carried>(operation(carried, in[i]));
      out[i] = carried;
    }
    return cudaSuccess;
  }

 private:
  struct Plus {
    template <class T>
    T operator()(T a, T b) const { return static_cast<T>(a + b); }
  };
};

}  // namespace cub
