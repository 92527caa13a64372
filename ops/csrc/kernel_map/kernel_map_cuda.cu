// Kernel maps of sorted voxels: one binary search of cell numbers for each line of the kernel along x, then a walk. What is found is written
// in both directions: the half of a submanifold map before its centre, and the backward map of a strided one. A strided map waits once for
// the number of its outputs.
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

constexpr int THREADS = 256;

// One thread for each row and each of `lines`, the block row.
template <class Kernel, class... Arguments>
void launch_lines(Kernel kernel, int64_t rows, int64_t lines, cudaStream_t stream, Arguments... arguments) {
  if (rows == 0) return;
  SUITE3D_CHECK(lines <= 65535, "kernel map: ", lines, " lines of the kernel along x, more than a launch takes");
  const dim3 blocks(static_cast<unsigned>((rows + THREADS - 1) / THREADS), static_cast<unsigned>(lines));
  kernel<<<blocks, THREADS, 0, stream>>>(arguments...);
  SUITE3D_CUDA(cudaGetLastError());
}

// A line of the kernel along x, over one voxel: cells [begin, begin + size) of the line whose first cell has the number `key`.
struct Line {
  int64_t key, begin, width;  // width: cells of the grid's line; 0 where the line lies outside of the grid

  __device__ Line(const Box& grid, int64_t batch, int64_t z, int64_t y, int64_t x)
      : key(grid.key(batch, z, y, 0)), begin(x), width(z >= 0 && z < grid.z && y >= 0 && y < grid.y ? grid.x : 0) {}

  __device__ int64_t first(const int64_t* keys, int64_t count) const {
    return width > 0 ? lower_bound(keys, count, key + (begin > 0 ? begin : 0)) : count;
  }
  // Whether row `at`, the first that is not before cell begin + k, is that cell.
  __device__ bool holds(const int64_t* keys, int64_t count, int64_t at, int64_t k) const {
    return begin + k >= 0 && begin + k < width && at < count && keys[at] == key + begin + k;
  }
};

// Block row 0 is the part of the voxel's own line after it, the others are the lines after that.
__global__ void __launch_bounds__(THREADS) submanifold_lines(const int32_t* coords, const int64_t* keys, int64_t count, Box grid, Box size,
                                                             int32_t* map) {
  const int64_t i = blockIdx.x * int64_t{THREADS} + threadIdx.x, volume = size.z * size.y * size.x;
  if (i >= count) return;
  const int32_t* c = coords + 4 * i;
  const int row = static_cast<int>(size.z * size.y / 2) + blockIdx.y, rows = static_cast<int>(size.y);
  const Line line(grid, c[0], c[1] + row / rows - size.z / 2, c[2] + row % rows - size.y / 2, c[3] - size.x / 2);
  int64_t at = blockIdx.y == 0 ? i + 1 : line.first(keys, count), k = blockIdx.y == 0 ? size.x / 2 + 1 : 0;
  if (blockIdx.y == 0) map[volume / 2 * count + i] = static_cast<int32_t>(i);
  for (; k < size.x; ++k) {
    const bool hit = line.holds(keys, count, at, k);
    const int64_t offset = row * size.x + k;
    map[offset * count + i] = hit ? static_cast<int32_t>(at) : -1;
    if (hit) map[(volume - 1 - offset) * count + at++] = static_cast<int32_t>(i);
  }
}

Tensor submanifold_map(Tensor coords, int64_t, Ints shape, Ints kernel) {
  coords = as_contiguous(coords);
  const OnDevice device(coords);
  const cudaStream_t stream = device.stream();
  const int64_t count = coords.size(0), volume = kernel[0] * kernel[1] * kernel[2];
  const Box grid = box_of(shape), size = box_of(kernel);
  Tensor table = empty({volume, count}, ScalarType::Int, coords);
  if (count == 0) return table;
  const Buffer<int64_t> keys = keys_of(coords, grid, stream);
  int32_t* map = mutable_data<int32_t>(table);
  SUITE3D_CUDA(cudaMemsetAsync(map, 0xff, sizeof(int32_t) * (volume / 2) * count, stream));
  launch_lines(submanifold_lines, count, size.z * size.y / 2 + 1, stream, data<int32_t>(coords), keys.get(), count, grid, size, map);
  return table;
}

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return a <= 0 ? -(-a / b) : (a + b - 1) / b; }

// How inputs and outputs of a strided convolution lie to each other.
struct Strided {
  Box grid, size, step, pad, out, reach;  // reach: most outputs that an input feeds on each axis

  Strided(const Ints& shape, const Ints& kernel, const Ints& stride, const Ints& padding)
      : grid(box_of(shape)), size(box_of(kernel)), step(box_of(stride)), pad(box_of(padding)),
        out{(grid.z + 2 * pad.z - size.z) / step.z + 1, (grid.y + 2 * pad.y - size.y) / step.y + 1, (grid.x + 2 * pad.x - size.x) / step.x + 1},
        reach{ceil_div(size.z, step.z), ceil_div(size.y, step.y), ceil_div(size.x, step.x)} {}

  int64_t slots() const { return reach.z * reach.y * reach.x; }
};

// Outputs that inputs feed: sorted keys with repetitions, and 1 + the row of each. Keys of 32 bits where the output grid allows.
template <class Key>
struct Outputs {
  Buffer<Key> key;
  Buffer<int32_t> start;  // 1 where a key comes first
  Buffer<int64_t> number;
};

template <class Key>
Outputs<Key> find_outputs(const Tensor& coords, const Strided& map, Key nothing, cudaStream_t stream) {
  const int64_t count = coords.size(0), candidates = count * map.slots();
  Outputs<Key> outputs{{candidates, coords}, {candidates, coords}, {candidates, coords}};
  const Buffer<Key> unsorted(candidates, coords);
  for_each(count, stream, [=, c = data<int32_t>(coords), key = unsorted.get()] __device__(int64_t i) {
    const uint32_t pz = c[4 * i + 1] + static_cast<uint32_t>(map.pad.z), py = c[4 * i + 2] + static_cast<uint32_t>(map.pad.y);
    const uint32_t px = c[4 * i + 3] + static_cast<uint32_t>(map.pad.x);
    const int64_t last_z = pz / static_cast<uint32_t>(map.step.z), last_y = py / static_cast<uint32_t>(map.step.y);
    const int64_t last_x = px / static_cast<uint32_t>(map.step.x);
    int64_t at = i;
    for (int64_t z = last_z; z > last_z - map.reach.z; --z)
      for (int64_t y = last_y; y > last_y - map.reach.y; --y)
        for (int64_t x = last_x; x > last_x - map.reach.x; --x, at += count) {
          const bool covers = pz - z * map.step.z < map.size.z && py - y * map.step.y < map.size.y && px - x * map.step.x < map.size.x;
          key[at] = covers && map.out.holds(z, y, x) ? static_cast<Key>(map.out.key(c[4 * i], z, y, x)) : nothing;
        }
  });
  sort_keys(unsorted.get(), outputs.key.get(), candidates, bit_width(static_cast<int64_t>(nothing) + 1), coords, stream);
  for_each(candidates, stream, [=, key = outputs.key.get(), start = outputs.start.get()] __device__(int64_t i) {
    start[i] = key[i] < nothing && (i == 0 || key[i] != key[i - 1]);
  });
  inclusive_sum(outputs.start.get(), outputs.number.get(), candidates, coords, stream);
  return outputs;
}

template <class Key>
void write_coords(const Outputs<Key>& outputs, int64_t candidates, Box out, int32_t* coords, cudaStream_t stream) {
  const Key x = static_cast<Key>(out.x), y = static_cast<Key>(out.y), z = static_cast<Key>(out.z);
  for_each(candidates, stream,
           [=, key = outputs.key.get(), start = outputs.start.get(), number = outputs.number.get()] __device__(int64_t i) {
             if (!start[i]) return;
             int32_t* target = coords + 4 * (number[i] - 1);
             const Key cell = key[i], line = cell / x, plane = line / y;
             target[0] = static_cast<int32_t>(plane / z);
             target[1] = static_cast<int32_t>(plane % z);
             target[2] = static_cast<int32_t>(line % y);
             target[3] = static_cast<int32_t>(cell % x);
           });
}

// The inputs under each line of the kernel over each output.
__global__ void __launch_bounds__(THREADS) strided_lines(const int32_t* outputs, const int64_t* keys, int64_t count, int64_t output_count,
                                                         Strided map, int32_t* forward, int32_t* backward) {
  const int64_t o = blockIdx.x * int64_t{THREADS} + threadIdx.x;
  if (o >= output_count) return;
  const int32_t* c = outputs + 4 * o;
  const int row = static_cast<int>(blockIdx.y), rows = static_cast<int>(map.size.y);
  const Line line(map.grid, c[0], c[1] * map.step.z - map.pad.z + row / rows, c[2] * map.step.y - map.pad.y + row % rows,
                  c[3] * map.step.x - map.pad.x);
  int64_t at = line.first(keys, count);
  for (int64_t k = 0; k < map.size.x; ++k) {
    const bool hit = line.holds(keys, count, at, k);
    const int64_t offset = row * map.size.x + k;
    forward[offset * output_count + o] = hit ? static_cast<int32_t>(at) : -1;
    if (hit) backward[offset * count + at++] = static_cast<int32_t>(o);
  }
}

template <class Key>
std::tuple<Tensor, Tensor, Tensor> strided_map_of(const Tensor& coords, const Strided& map, int64_t volume, Key nothing, cudaStream_t stream) {
  const int64_t count = coords.size(0), candidates = count * map.slots();
  const Outputs<Key> found = find_outputs(coords, map, nothing, stream);
  const int64_t outputs = candidates == 0 ? 0 : read_one(found.number.get() + candidates - 1, stream);
  SUITE3D_CHECK(outputs <= INT32_MAX, "kernel map: ", outputs, " output voxels, more than int32 rows hold");
  Tensor out_coords = empty({outputs, 4}, ScalarType::Int, coords);
  Tensor forward = empty({volume, outputs}, ScalarType::Int, coords), backward = empty({volume, count}, ScalarType::Int, coords);
  write_coords(found, candidates, map.out, mutable_data<int32_t>(out_coords), stream);
  const Buffer<int64_t> keys = keys_of(coords, map.grid, stream);
  if (count > 0) SUITE3D_CUDA(cudaMemsetAsync(mutable_data<int32_t>(backward), 0xff, sizeof(int32_t) * volume * count, stream));
  launch_lines(strided_lines, outputs, map.size.z * map.size.y, stream, data<int32_t>(out_coords), keys.get(), count, outputs, map,
               mutable_data<int32_t>(forward), mutable_data<int32_t>(backward));
  return {out_coords, forward, backward};
}

std::tuple<Tensor, Tensor, Tensor> strided_map(Tensor coords, int64_t batch_size, Ints shape, Ints kernel, Ints stride, Ints padding) {
  coords = as_contiguous(coords);
  const OnDevice device(coords);
  const Strided map(shape, kernel, stride, padding);
  const int64_t volume = kernel[0] * kernel[1] * kernel[2], nothing = batch_size * map.out.z * map.out.y * map.out.x;
  return nothing < UINT32_MAX ? strided_map_of(coords, map, volume, static_cast<uint32_t>(nothing), device.stream())
                              : strided_map_of(coords, map, volume, static_cast<uint64_t>(nothing), device.stream());
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("submanifold_map", TORCH_BOX(&suite3d::submanifold_map));
  m.impl("strided_map", TORCH_BOX(&suite3d::strided_map));
}
