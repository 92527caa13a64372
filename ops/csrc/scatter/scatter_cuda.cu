// Reductions of rows into rows: a stable sort by output row, then one thread for each output value, in the order of the rows.
// No atomics on values, so the result is the same every time.
#include "scatter/group_rows.cuh"

namespace suite3d {
namespace {

GroupedRows rows_of(const Tensor& index, int64_t size, cudaStream_t stream) {
  return group_rows(index.size(0), size, index, stream, [group = data<int64_t>(index)] __device__(int64_t i) { return group[i]; });
}

template <class T>
std::tuple<Tensor, Tensor> sum_of(const Tensor& values, const Tensor& index, int64_t size, bool mean, cudaStream_t stream) {
  const GroupedRows rows = rows_of(index, size, stream);
  const int64_t width = values.size(1);
  Tensor out = empty({size, width}, values.scalar_type(), values), counts = empty({size}, ScalarType::Long, values);
  for_each(size, stream, [start = rows.start.get(), count = mutable_data<int64_t>(counts)] __device__(int64_t j) {
    count[j] = start[j + 1] - start[j];
  });
  for_each(size * width, stream,
           [=, start = rows.start.get(), row = rows.row.get(), value = data<T>(values), out = mutable_data<T>(out)] __device__(int64_t i) {
             const int64_t j = i / width, k = i % width, held = start[j + 1] - start[j];
             T sum = 0;
             for (int64_t at = start[j]; at < start[j + 1]; ++at) sum += value[row[at] * width + k];
             out[i] = mean && held > 1 ? sum / static_cast<T>(held) : sum;
           });
  return {out, counts};
}

template <class T>
std::tuple<Tensor, Tensor> max_of(const Tensor& values, const Tensor& index, int64_t size, cudaStream_t stream) {
  const GroupedRows rows = rows_of(index, size, stream);
  const int64_t width = values.size(1);
  Tensor out = empty({size, width}, values.scalar_type(), values), first = empty({size, width}, ScalarType::Long, values);
  for_each(size * width, stream,
           [=, start = rows.start.get(), row = rows.row.get(), value = data<T>(values), out = mutable_data<T>(out),
            first = mutable_data<int64_t>(first)] __device__(int64_t i) {
             const int64_t j = i / width, k = i % width;
             T best = 0;
             int64_t argument = -1;
             for (int64_t at = start[j]; at < start[j + 1]; ++at) {
               const T v = value[row[at] * width + k];
               if (argument < 0 || v > best || (v != v && best == best)) {
                 best = v;
                 argument = row[at];
               }
             }
             out[i] = best;
             first[i] = argument;
           });
  return {out, first};
}

std::tuple<Tensor, Tensor> scatter_sum(Tensor values, Tensor index, int64_t size, bool mean) {
  values = as_contiguous(values);
  index = as_contiguous(index);
  const OnDevice device(values);
  return values.scalar_type() == ScalarType::Double ? sum_of<double>(values, index, size, mean, device.stream())
                                                    : sum_of<float>(values, index, size, mean, device.stream());
}

std::tuple<Tensor, Tensor> scatter_max(Tensor values, Tensor index, int64_t size) {
  values = as_contiguous(values);
  index = as_contiguous(index);
  const OnDevice device(values);
  return values.scalar_type() == ScalarType::Double ? max_of<double>(values, index, size, device.stream())
                                                    : max_of<float>(values, index, size, device.stream());
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("scatter_sum", TORCH_BOX(&suite3d::scatter_sum));
  m.impl("scatter_max", TORCH_BOX(&suite3d::scatter_max));
}
