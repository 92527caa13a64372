// Space-filling-curve positions, one thread a cell, and the order they give by stable radix sorts. No wait for the device.
#include "curve/code.cuh"
#include "curve/curve.h"

namespace suite3d {
namespace {

void check_depth(int64_t depth) {
  SUITE3D_CHECK(depth >= 1 && depth <= MAX_CURVE_DEPTH, "curve: depth ", depth, " is outside [1, 21]");
}

template <class Cell>
void write_codes(const Tensor& coords, int64_t depth, bool hilbert, bool swap, uint64_t* out, cudaStream_t stream) {
  for_each(coords.size(0), stream, [=, cells = data<Cell>(coords)] __device__(int64_t i) {
    out[i] = code_of(cells + 3 * i, static_cast<int>(depth), hilbert, swap);
  });
}

void codes_of(const Tensor& coords, int64_t depth, bool hilbert, bool swap, uint64_t* out, cudaStream_t stream) {
  check_depth(depth);
  if (coords.scalar_type() == ScalarType::Int)
    write_codes<int32_t>(coords, depth, hilbert, swap, out, stream);
  else
    write_codes<int64_t>(coords, depth, hilbert, swap, out, stream);
}

Tensor curve_codes(Tensor coords, int64_t depth, bool hilbert, bool swap) {
  coords = as_contiguous(coords);
  const OnDevice device(coords);
  const Tensor codes = empty({coords.size(0)}, ScalarType::Long, coords);
  codes_of(coords, depth, hilbert, swap, reinterpret_cast<uint64_t*>(mutable_data<int64_t>(codes)), device.stream());
  return codes;
}

std::tuple<Tensor, Tensor> curve_order(Tensor coords, Tensor offsets, int64_t depth, bool hilbert, bool swap) {
  coords = as_contiguous(coords), offsets = as_contiguous(offsets);
  const OnDevice device(coords);
  const cudaStream_t stream = device.stream();
  const int64_t count = coords.size(0), clouds = offsets.size(0) - 1;
  const Tensor order = empty({count}, ScalarType::Long, coords), inverse = empty({count}, ScalarType::Long, coords);
  if (count == 0) return {order, inverse};
  const int64_t* ends = data<int64_t>(offsets);
  int64_t *order_out = mutable_data<int64_t>(order), *inverse_out = mutable_data<int64_t>(inverse);
  const Buffer<uint64_t> code(count, coords), sorted(count, coords);
  const Buffer<int64_t> row(count, coords);
  codes_of(coords, depth, hilbert, swap, code.get(), stream);
  const int code_bits = static_cast<int>(3 * depth), cloud_bits = bit_width(clouds);
  const bool together = code_bits + cloud_bits <= 64;
  for_each(count, stream, [=, code = code.get(), row = row.get()] __device__(int64_t i) {
    row[i] = i;
    if (together && clouds > 1) code[i] |= static_cast<uint64_t>(cloud_of(ends, clouds, i)) << code_bits;
  });
  sort_pairs(code.get(), sorted.get(), row.get(), order_out, count, together ? code_bits + cloud_bits : code_bits, coords, stream);
  if (!together) {  // the clouds of the rows so sorted, and once more by those
    for_each(count, stream, [=, code = code.get(), row = row.get()] __device__(int64_t i) {
      row[i] = order_out[i];
      code[i] = static_cast<uint64_t>(cloud_of(ends, clouds, order_out[i]));
    });
    sort_pairs(code.get(), sorted.get(), row.get(), order_out, count, cloud_bits, coords, stream);
  }
  for_each(count, stream, [=] __device__(int64_t i) { inverse_out[order_out[i]] = i; });
  return {order, inverse};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("curve_codes", TORCH_BOX(&suite3d::curve_codes));
  m.impl("curve_order", TORCH_BOX(&suite3d::curve_order));
}
