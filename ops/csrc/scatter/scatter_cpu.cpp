// Reductions of rows into rows. Each output row is reduced by one thread, in the order of its input rows.
#include "common.h"

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

// Index: an integer as wide as T, so that values and their rows are compared and chosen in the same vector lanes.
template <class Index, class T>
void max_rows(const T* values, const Rows& rows, int64_t inputs, int64_t size, int64_t width, T* out, int64_t* first_row) {
  SUITE3D_CHECK(inputs <= std::numeric_limits<Index>::max(), "scatter_max: ", inputs, " rows, more than the row index holds");
  parallel_for(size, grain(inputs, size, width), [&](int64_t first, int64_t last) {
    Scratch<Index> argument(width);
    for (int64_t j = first; j < last; ++j) {
      T* target = out + j * width;
      Index* from = argument.get();
      const int64_t begin = rows.start[j], end = rows.start[j + 1];
      if (begin == end) {
        std::fill(target, target + width, T(0));
        std::fill(first_row + j * width, first_row + (j + 1) * width, int64_t{-1});
        continue;
      }
      std::copy_n(values + rows.input(begin) * width, width, target);
      std::fill(from, from + width, static_cast<Index>(rows.input(begin)));
      for (int64_t at = begin + 1; at < end; ++at) {
        const Index i = static_cast<Index>(rows.input(at));
        const T* source = values + int64_t{i} * width;
        for (int64_t k = 0; k < width; ++k) {
          const bool better = !(source[k] <= target[k]) & (target[k] == target[k]);  // larger, or the first NaN
          target[k] = better ? source[k] : target[k];
          from[k] = better ? i : from[k];
        }
      }
      std::copy_n(from, width, first_row + j * width);
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
    max_rows<int64_t>(data<double>(values), rows, inputs, size, width, mutable_data<double>(out), first);
  else
    max_rows<int32_t>(data<float>(values), rows, inputs, size, width, mutable_data<float>(out), first);
  return {out, argument};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("scatter_sum", TORCH_BOX(&suite3d::scatter_sum));
  m.impl("scatter_max", TORCH_BOX(&suite3d::scatter_max));
}
