// Kernel maps of sorted voxels by binary search of their cell numbers. A strided map waits once for the number of its outputs.
#include "common_cuda.cuh"

namespace suite3d {
namespace {

using Ints = std::vector<int64_t>;

struct Box {
  int64_t z, y, x;
  __host__ __device__ int64_t key(int64_t batch, int64_t cz, int64_t cy, int64_t cx) const { return ((batch * z + cz) * y + cy) * x + cx; }
  __host__ __device__ bool holds(int64_t cz, int64_t cy, int64_t cx) const { return cz >= 0 && cz < z && cy >= 0 && cy < y && cx >= 0 && cx < x; }
};

Box box_of(const Ints& shape) { return {shape[0], shape[1], shape[2]}; }

Buffer<int64_t> keys_of(const Tensor& coords, Box shape, cudaStream_t stream) {
  Buffer<int64_t> keys(coords.size(0), coords);
  for_each(coords.size(0), stream, [=, c = data<int32_t>(coords), key = keys.get()] __device__(int64_t i) {
    key[i] = shape.key(c[4 * i], c[4 * i + 1], c[4 * i + 2], c[4 * i + 3]);
  });
  return keys;
}

Tensor submanifold_map(Tensor coords, int64_t, Ints shape, Ints kernel) {
  coords = as_contiguous(coords);
  const OnDevice device(coords);
  const int64_t count = coords.size(0), volume = kernel[0] * kernel[1] * kernel[2];
  const Box grid = box_of(shape), size = box_of(kernel);
  const Buffer<int64_t> keys = keys_of(coords, grid, device.stream());
  Tensor table = empty({volume, count}, ScalarType::Int, coords);
  for_each(volume * count, device.stream(),
           [=, c = data<int32_t>(coords), key = keys.get(), map = mutable_data<int32_t>(table)] __device__(int64_t at) {
             const int64_t k = at / count, i = at % count;
             const int64_t z = c[4 * i + 1] + k / (size.y * size.x) - size.z / 2, y = c[4 * i + 2] + k / size.x % size.y - size.y / 2;
             const int64_t x = c[4 * i + 3] + k % size.x - size.x / 2;
             map[at] = grid.holds(z, y, x) ? find(key, count, grid.key(c[4 * i], z, y, x)) : -1;
           });
  return table;
}

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return a <= 0 ? -(-a / b) : (a + b - 1) / b; }

std::tuple<Tensor, Tensor, Tensor> strided_map(Tensor coords, int64_t batch_size, Ints shape, Ints kernel, Ints stride, Ints padding) {
  coords = as_contiguous(coords);
  const OnDevice device(coords);
  const cudaStream_t stream = device.stream();
  const int64_t count = coords.size(0), volume = kernel[0] * kernel[1] * kernel[2];
  const Box grid = box_of(shape), size = box_of(kernel), step = box_of(stride), pad = box_of(padding);
  const Box out{(grid.z + 2 * pad.z - size.z) / step.z + 1, (grid.y + 2 * pad.y - size.y) / step.y + 1, (grid.x + 2 * pad.x - size.x) / step.x + 1};
  const Box reach{ceil_div(size.z, step.z), ceil_div(size.y, step.y), ceil_div(size.x, step.x)};  // most outputs an input feeds on each axis
  const int64_t slots = reach.z * reach.y * reach.x, candidates = count * slots, nothing = batch_size * out.z * out.y * out.x;
  const Buffer<int64_t> unsorted(candidates, coords), sorted(candidates, coords), number(candidates, coords);
  const Buffer<int32_t> starts(candidates, coords);
  const auto* c = data<int32_t>(coords);
  for_each(candidates, stream, [=, key = unsorted.get()] __device__(int64_t at) {
    const int64_t i = at / slots, slot = at % slots;
    const int64_t pz = c[4 * i + 1] + pad.z, py = c[4 * i + 2] + pad.y, px = c[4 * i + 3] + pad.x;
    const int64_t z = pz / step.z - slot / (reach.y * reach.x), y = py / step.y - slot / reach.x % reach.y, x = px / step.x - slot % reach.x;
    const bool covers = pz - z * step.z < size.z && py - y * step.y < size.y && px - x * step.x < size.x;
    key[at] = covers && out.holds(z, y, x) ? out.key(c[4 * i], z, y, x) : nothing;
  });
  sort_keys(unsorted.get(), sorted.get(), candidates, std::min(63, bit_width(nothing + 1)), coords, stream);
  for_each(candidates, stream, [=, key = sorted.get(), start = starts.get()] __device__(int64_t i) {
    start[i] = key[i] < nothing && (i == 0 || key[i] != key[i - 1]);
  });
  inclusive_sum(starts.get(), number.get(), candidates, coords, stream);
  const int64_t outputs = candidates == 0 ? 0 : read_one(number.get() + candidates - 1, stream);
  SUITE3D_CHECK(outputs <= INT32_MAX, "kernel map: ", outputs, " output voxels, more than int32 rows hold");
  Tensor out_coords = empty({outputs, 4}, ScalarType::Int, coords);
  Tensor forward = empty({volume, outputs}, ScalarType::Int, coords), backward = empty({volume, count}, ScalarType::Int, coords);
  const Buffer<int64_t> out_keys(outputs, coords);
  for_each(candidates, stream,
           [=, key = sorted.get(), start = starts.get(), number = number.get(), out_key = out_keys.get(),
            target = mutable_data<int32_t>(out_coords)] __device__(int64_t i) {
             if (!start[i]) return;
             const int64_t row = number[i] - 1, cell = key[i];
             out_key[row] = cell;
             target[4 * row] = static_cast<int32_t>(cell / (out.z * out.y * out.x));
             target[4 * row + 1] = static_cast<int32_t>(cell / (out.y * out.x) % out.z);
             target[4 * row + 2] = static_cast<int32_t>(cell / out.x % out.y);
             target[4 * row + 3] = static_cast<int32_t>(cell % out.x);
           });
  const Buffer<int64_t> keys = keys_of(coords, grid, stream);
  for_each(volume * outputs, stream,
           [=, key = keys.get(), o = mutable_data<int32_t>(out_coords), map = mutable_data<int32_t>(forward)] __device__(int64_t at) {
             const int64_t k = at / outputs, r = at % outputs;
             const int64_t z = o[4 * r + 1] * step.z - pad.z + k / (size.y * size.x), y = o[4 * r + 2] * step.y - pad.y + k / size.x % size.y;
             const int64_t x = o[4 * r + 3] * step.x - pad.x + k % size.x;
             map[at] = grid.holds(z, y, x) ? find(key, count, grid.key(o[4 * r], z, y, x)) : -1;
           });
  for_each(volume * count, stream, [=, key = out_keys.get(), map = mutable_data<int32_t>(backward)] __device__(int64_t at) {
    const int64_t k = at / count, i = at % count;
    const int64_t z = c[4 * i + 1] + pad.z - k / (size.y * size.x), y = c[4 * i + 2] + pad.y - k / size.x % size.y, x = c[4 * i + 3] + pad.x - k % size.x;
    const bool hits = z >= 0 && y >= 0 && x >= 0 && z % step.z == 0 && y % step.y == 0 && x % step.x == 0;
    const int64_t oz = z / step.z, oy = y / step.y, ox = x / step.x;
    map[at] = hits && out.holds(oz, oy, ox) ? find(key, outputs, out.key(c[4 * i], oz, oy, ox)) : -1;
  });
  return {out_coords, forward, backward};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("submanifold_map", TORCH_BOX(&suite3d::submanifold_map));
  m.impl("strided_map", TORCH_BOX(&suite3d::strided_map));
}
