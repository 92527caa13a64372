// Reductions of rows into rows. Each output row is reduced by one thread, in the order of its input rows.
#include "common.h"

#include <cmath>
#include <limits>

namespace suite3d {
namespace {

// Input rows by output row: rows [start[j], start[j + 1]) of `order`, or of the input itself where the index is sorted.
struct Rows {
  std::vector<int64_t> start;
  std::vector<int64_t> order;
  bool sorted = true;

  Rows(const int64_t* index, int64_t count, int64_t size) : start(size + 1, 0) {
    int64_t previous = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t j = index[i];
      SUITE3D_CHECK(j >= 0 && j < size, "scatter: index ", j, " is outside [0, ", size, ")");
      sorted &= j >= previous;
      previous = j;
      ++start[j + 1];
    }
    for (int64_t j = 0; j < size; ++j) start[j + 1] += start[j];
    if (sorted) return;
    order.resize(count);
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < count; ++i) order[next[index[i]]++] = i;
  }

  int64_t input(int64_t position) const { return sorted ? position : order[position]; }
};

int64_t grain(int64_t inputs, int64_t outputs, int64_t width) {  // output rows worth a thread: about 16k values
  const int64_t work = std::max<int64_t>(1, inputs / std::max<int64_t>(outputs, 1)) * std::max<int64_t>(width, 1);
  return std::max<int64_t>(1, 16384 / work);
}

template <class T>
void sum_rows(const T* values, const Rows& rows, int64_t inputs, int64_t size, int64_t width, bool mean, T* out, int64_t* counts) {
  parallel_for(size, grain(inputs, size, width), [&](int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) {
      T* target = out + j * width;
      const int64_t begin = rows.start[j], end = rows.start[j + 1];
      counts[j] = end - begin;
      std::fill(target, target + width, T(0));
      for (int64_t at = begin; at < end; ++at) {
        const T* source = values + rows.input(at) * width;
        for (int64_t k = 0; k < width; ++k) target[k] += source[k];
      }
      if (!mean || end - begin < 2) continue;
      const T divisor = static_cast<T>(end - begin);
      for (int64_t k = 0; k < width; ++k) target[k] /= divisor;
    }
  });
}

template <class T>
void max_rows(const T* values, const Rows& rows, int64_t inputs, int64_t size, int64_t width, T* out, int64_t* first_row) {
  parallel_for(size, grain(inputs, size, width), [&](int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) {
      T* target = out + j * width;
      int64_t* argument = first_row + j * width;
      const int64_t begin = rows.start[j], end = rows.start[j + 1];
      std::fill(target, target + width, T(0));
      std::fill(argument, argument + width, int64_t{-1});
      for (int64_t at = begin; at < end; ++at) {
        const int64_t i = rows.input(at);
        const T* source = values + i * width;
        for (int64_t k = 0; k < width; ++k) {
          const bool better = at == begin || source[k] > target[k] || (std::isnan(source[k]) && !std::isnan(target[k]));
          target[k] = better ? source[k] : target[k];
          argument[k] = better ? i : argument[k];
        }
      }
    }
  });
}

std::tuple<Tensor, Tensor> scatter_sum(Tensor values, Tensor index, int64_t size, bool mean) {
  values = as_contiguous(values);
  index = as_contiguous(index);
  const int64_t inputs = values.size(0), width = values.size(1);
  const Rows rows(data<int64_t>(index), inputs, size);
  Tensor out = empty({size, width}, values.scalar_type(), values), counts = empty({size}, ScalarType::Long, values);
  int64_t* count = mutable_data<int64_t>(counts);
  if (values.scalar_type() == ScalarType::Double)
    sum_rows(data<double>(values), rows, inputs, size, width, mean, mutable_data<double>(out), count);
  else
    sum_rows(data<float>(values), rows, inputs, size, width, mean, mutable_data<float>(out), count);
  return {out, counts};
}

std::tuple<Tensor, Tensor> scatter_max(Tensor values, Tensor index, int64_t size) {
  values = as_contiguous(values);
  index = as_contiguous(index);
  const int64_t inputs = values.size(0), width = values.size(1);
  const Rows rows(data<int64_t>(index), inputs, size);
  Tensor out = empty({size, width}, values.scalar_type(), values), argument = empty({size, width}, ScalarType::Long, values);
  int64_t* first = mutable_data<int64_t>(argument);
  if (values.scalar_type() == ScalarType::Double)
    max_rows(data<double>(values), rows, inputs, size, width, mutable_data<double>(out), first);
  else
    max_rows(data<float>(values), rows, inputs, size, width, mutable_data<float>(out), first);
  return {out, argument};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("scatter_sum", TORCH_BOX(&suite3d::scatter_sum));
  m.impl("scatter_max", TORCH_BOX(&suite3d::scatter_max));
}
