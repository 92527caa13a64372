// Radix sort of integer keys. Compiled for any machine.
#pragma once

#include "common.h"

namespace suite3d {

// Sort keys by three digits of `digit` bits from `low` on; equal ones come in their order.
inline void sort_keys(std::vector<uint64_t>& keys, int low, int digit) {
  constexpr int DIGITS = 3;
  const uint64_t values = uint64_t{1} << digit;
  if (keys.size() < 512) {
    std::sort(keys.begin(), keys.end());  // the low bits number the keys
    return;
  }
  Scratch<uint64_t> memory(keys.size());
  std::vector<uint32_t> begin(DIGITS * values, 0);
  uint32_t* const counts[DIGITS] = {begin.data(), begin.data() + values, begin.data() + 2 * values};
  for (uint64_t key : keys)
    for (int i = 0; i < DIGITS; ++i) ++counts[i][key >> (low + i * digit) & (values - 1)];
  uint64_t *from = keys.data(), *to = memory.get();
  for (int i = 0; i < DIGITS; ++i) {
    uint32_t* next = counts[i];
    uint32_t total = 0, most = 0;
    for (uint64_t value = 0; value < values; ++value) {
      const uint32_t count = next[value];
      most = std::max(most, count);
      next[value] = total;
      total += count;
    }
    if (most == keys.size()) continue;  // one value: in order already
    const int shift = low + i * digit;
    for (size_t at = 0; at < keys.size(); ++at) to[next[from[at] >> shift & (values - 1)]++] = from[at];
    std::swap(from, to);
  }
  if (from != keys.data()) std::copy(from, from + keys.size(), keys.data());
}

}  // namespace suite3d
