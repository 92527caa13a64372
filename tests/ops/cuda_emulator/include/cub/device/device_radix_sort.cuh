// cub::DeviceRadixSort: stable sorts by the bits [begin_bit, end_bit) of the key, with CUB's two-call protocol for temporary memory.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "cuda_runtime.h"

namespace cub {
namespace emulated {

// The first call asks how much memory; the second gets it, and everything in it is lost.
inline bool asks(void* temporary, size_t& size, size_t needed, cudaError_t& status) {
  status = cudaSuccess;
  if (!temporary) {
    size = needed;
    return true;
  }
  if (size < needed) return status = cudaErrorInvalidValue, true;
  std::memset(temporary, 0xee, size);
  return false;
}

// Bits of a key in the order of its type.
template <class Key>
uint64_t ordered_bits(Key key) {
  using Bits = std::conditional_t<sizeof(Key) == 8, uint64_t, std::conditional_t<sizeof(Key) == 4, uint32_t, std::conditional_t<sizeof(Key) == 2, uint16_t, uint8_t>>>;
  Bits bits;
  std::memcpy(&bits, &key, sizeof(bits));
  const Bits sign = static_cast<Bits>(Bits{1} << (8 * sizeof(Key) - 1));
  if (std::is_floating_point_v<Key>) return static_cast<Bits>(bits & sign ? ~bits : bits | sign);
  return std::is_signed_v<Key> ? static_cast<Bits>(bits ^ sign) : bits;
}

template <class Key>
bool overlap(const Key* in, const Key* out, int64_t count) {
  return in < out + count && out < in + count;
}

template <class Key>
cudaError_t order_of(const Key* keys, int64_t count, int begin_bit, int end_bit, bool descending, std::vector<int64_t>& order) {
  if (count < 0 || begin_bit < 0 || end_bit > static_cast<int>(8 * sizeof(Key)) || begin_bit > end_bit) return cudaErrorInvalidValue;
  const int bits = end_bit - begin_bit;
  const uint64_t kept = bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  std::vector<uint64_t> part(count);
  for (int64_t i = 0; i < count; ++i) part[i] = (begin_bit >= 64 ? 0 : ordered_bits(keys[i]) >> begin_bit & kept) ^ (descending ? kept : 0);
  order.resize(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return part[a] < part[b]; });
  return cudaSuccess;
}

}  // namespace emulated

struct DeviceRadixSort {
  template <class Key, class Value>
  static cudaError_t SortPairs(void* temporary, size_t& size, const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
                               int64_t count, int begin_bit = 0, int end_bit = sizeof(Key) * 8, cudaStream_t = nullptr, bool descending = false) {
    cudaError_t status;
    if (emulated::asks(temporary, size, 128 + 2 * count, status)) return status;
    if (emulated::overlap(keys_in, keys_out, count) || emulated::overlap(values_in, values_out, count)) return cudaErrorInvalidValue;
    std::vector<int64_t> order;
    if ((status = emulated::order_of(keys_in, count, begin_bit, end_bit, descending, order)) != cudaSuccess) return status;
    for (int64_t i = 0; i < count; ++i) keys_out[i] = keys_in[order[i]], values_out[i] = values_in[order[i]];
    return cudaSuccess;
  }
  template <class Key>
  static cudaError_t SortKeys(void* temporary, size_t& size, const Key* keys_in, Key* keys_out, int64_t count, int begin_bit = 0,
                              int end_bit = sizeof(Key) * 8, cudaStream_t = nullptr, bool descending = false) {
    cudaError_t status;
    if (emulated::asks(temporary, size, 128 + 2 * count, status)) return status;
    if (emulated::overlap(keys_in, keys_out, count)) return cudaErrorInvalidValue;
    std::vector<int64_t> order;
    if ((status = emulated::order_of(keys_in, count, begin_bit, end_bit, descending, order)) != cudaSuccess) return status;
    for (int64_t i = 0; i < count; ++i) keys_out[i] = keys_in[order[i]];
    return cudaSuccess;
  }
  template <class Key, class Value>
  static cudaError_t SortPairsDescending(void* temporary, size_t& size, const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
                                         int64_t count, int begin_bit = 0, int end_bit = sizeof(Key) * 8, cudaStream_t stream = nullptr) {
    return SortPairs(temporary, size, keys_in, keys_out, values_in, values_out, count, begin_bit, end_bit, stream, true);
  }
  template <class Key>
  static cudaError_t SortKeysDescending(void* temporary, size_t& size, const Key* keys_in, Key* keys_out, int64_t count, int begin_bit = 0,
                                        int end_bit = sizeof(Key) * 8, cudaStream_t stream = nullptr) {
    return SortKeys(temporary, size, keys_in, keys_out, count, begin_bit, end_bit, stream, true);
  }
};

}  // namespace cub
