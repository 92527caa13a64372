// Sparse convolution, output stationary: a tile of output rows stays in cache while each kernel offset adds its inputs.
// Every output row is summed by one thread, offset after offset, so the result does not depend on the number of threads.
#include "common.h"
#include "sparse_conv/tiles.h"

namespace suite3d {
namespace {

constexpr int kLanes = 4, kColumns = 2;
constexpr int rows_for(int) { return 4; }
constexpr int outer_rows_for(int columns) { return rows_for(columns); }
typedef float V __attribute__((vector_size(16)));
inline V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }
inline V broadcast(float v) { return V{v, v, v, v}; }
inline V multiply_add(V a, V b, V c) { return a * b + c; }

int64_t compact(const int32_t* map, int64_t count, int32_t* rows, int32_t* positions) {
  int64_t found = 0;
  for (int64_t t = 0; t < count; ++t) {
    rows[found] = map[t];
    positions[found] = static_cast<int32_t>(t);
    found += map[t] >= 0;
  }
  return found;
}

#include "sparse_conv/tiles.inc"

}  // namespace

const ConvTiles& conv_tiles_any() { return kTiles; }

namespace {

const ConvTiles& tiles() {
#ifdef SUITE3D_X86
  if (isa() == Isa::avx512) return conv_tiles_avx512();
  if (isa() == Isa::avx2) return conv_tiles_avx2();
#endif
  return conv_tiles_any();
}

constexpr int64_t kTile = 1024;               // most output rows a tile
constexpr int64_t kChunk = 4096;              // most floats of the rows whose products are summed in registers: half of the first cache
constexpr int64_t kGradients = 65536;         // weight gradients a task adds up: these stay in the second cache, and leave room for the rows
constexpr int64_t kHeight = 128;              // most output channels of such a task
constexpr int64_t kPart = 16384, kParts = 16; // output rows whose weight gradients are summed apart, at least; most such parts

// Output rows a tile, for rows of so many floats.
int64_t tile_rows(int64_t width) { return std::clamp<int64_t>(32768 / std::max<int64_t>(width, 1), 256, kTile); }

int64_t padded(int64_t width, const ConvTiles& tile) { return (width + tile.lanes - 1) / tile.lanes * tile.lanes; }

// Weights of every offset as panels of columns, see tiles.h; weight(k, d, c) is read for c < width only.
template <class Weight>
Scratch<float> pack(int64_t volume, int64_t depth, int64_t width, const ConvTiles& tile, const Weight& weight) {
  const int64_t wide = padded(width, tile), panels = (wide + tile.panel - 1) / tile.panel;
  Scratch<float> packed(volume * depth * wide);
  parallel_for(volume * panels, 1 + 32768 / (depth * tile.panel + 1), [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t k = task / panels, begin = task % panels * tile.panel, columns = std::min<int64_t>(tile.panel, wide - begin);
      float* panel = packed.get() + (k * wide + begin) * depth;
      for (int64_t c = 0; c < columns; ++c)
        for (int64_t d = 0; d < depth; ++d) panel[d * columns + c] = begin + c < width ? weight(k, d, begin + c) : 0.0f;
    }
  });
  return packed;
}

// out[o] = bias + sum over k of x[map[k, o]] w[k]; w as pack() makes it.
void convolve(const float* x, int64_t depth, const float* w, int64_t width, const float* bias, const int32_t* map, int64_t volume, int64_t outputs,
              float* out) {
  const ConvTiles& tile = tiles();
  const int64_t wide = padded(width, tile);
  const int64_t size = std::clamp<int64_t>(outputs / (8 * num_threads()), 256, tile_rows(wide));  // few rows: a few tiles for each thread
  parallel_tasks((outputs + size - 1) / size, [&](int64_t task) {
    const int64_t first = task * size, count = std::min(size, outputs - first);
    int32_t rows[kTile + 16], positions[kTile + 16];
    thread_local std::vector<float> buffer;
    if (wide != width) buffer.resize(size * wide);
    float* sums = wide == width ? out + first * width : buffer.data();
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < width; ++c) sums[r * wide + c] = bias ? bias[c] : 0.0f;
      for (int64_t c = width; c < wide; ++c) sums[r * wide + c] = 0.0f;
    }
    for (int64_t k = 0; k < volume; ++k) {
      const int64_t pairs = tile.compact(map + k * outputs + first, count, rows, positions);
      if (pairs) tile.multiply(x, depth, w + k * depth * wide, wide, rows, positions, pairs, sums);
    }
    if (wide == width) return;
    for (int64_t r = 0; r < count; ++r) std::copy_n(sums + r * wide, width, out + (first + r) * width);
  });
}

struct Shape {
  int64_t out, volume, in;
};

Shape shape_of(const Tensor& weight) { return {weight.size(0), weight.size(1), weight.size(2)}; }

Tensor sparse_conv(Tensor feats, Tensor weight, std::optional<Tensor> bias, Tensor forward_map, Tensor, bool) {
  feats = as_contiguous(feats);
  weight = as_contiguous(weight);
  forward_map = as_contiguous(forward_map);
  if (bias) bias = as_contiguous(*bias);
  const Shape s = shape_of(weight);
  const int64_t outputs = forward_map.size(1);
  const float* source = data<float>(weight);
  Scratch<float> packed =
      pack(s.volume, s.in, s.out, tiles(), [&](int64_t k, int64_t i, int64_t o) { return source[(o * s.volume + k) * s.in + i]; });
  Tensor out = empty({outputs, s.out}, ScalarType::Float, feats);
  convolve(data<float>(feats), s.in, packed.get(), s.out, bias ? data<float>(*bias) : nullptr, data<int32_t>(forward_map), s.volume, outputs,
           mutable_data<float>(out));
  return out;
}

Tensor sparse_conv_input_grad(Tensor grad, Tensor weight, Tensor backward_map, bool mirrored) {
  grad = as_contiguous(grad);
  weight = as_contiguous(weight);
  backward_map = as_contiguous(backward_map);
  const Shape s = shape_of(weight);
  const int64_t inputs = backward_map.size(1);
  const float* source = data<float>(weight);
  Scratch<float> packed = pack(s.volume, s.out, s.in, tiles(), [&](int64_t k, int64_t o, int64_t i) {
    return source[(o * s.volume + (mirrored ? s.volume - 1 - k : k)) * s.in + i];
  });
  Tensor out = empty({inputs, s.in}, ScalarType::Float, grad);
  convolve(data<float>(grad), s.out, packed.get(), s.in, nullptr, data<int32_t>(backward_map), s.volume, inputs, mutable_data<float>(out));
  return out;
}

// weight_grad[o, k, i] += sum over pairs of grad[output, o] feats[input, i], for some outputs, kernel offsets and output channels.
struct Share {
  int64_t start, stop, first, last, channel, height;
};

void sum_weight_grad(const ConvTiles& tile, const float* x, int64_t wide, const float* y, int64_t out, const int32_t* map, int64_t outputs,
                     const Share& share, float* sums) {
  const int64_t size = tile_rows(std::max(wide, out)), chunk = kChunk / std::clamp<int64_t>(wide, 1, tile.panel);
  int32_t rows[kTile + 16], positions[kTile + 16];
  for (int64_t start = share.start; start < share.stop; start += size) {
    const int64_t count = std::min(size, share.stop - start);
    for (int64_t k = share.first; k < share.last; ++k) {
      const int64_t pairs = tile.compact(map + k * outputs + start, count, rows, positions);
      const int64_t chunks = (pairs + chunk - 1) / chunk;
      for (int64_t c = 0; c < chunks; ++c) {
        const int64_t begin = pairs * c / chunks, end = pairs * (c + 1) / chunks;
        tile.outer(y + start * out + share.channel, out, x, wide, positions + begin, rows + begin, end - begin, share.height, wide,
                   sums + (k - share.first) * share.height * wide);
      }
    }
  }
}

// Tasks of one part of the outputs follow each other, so its rows are read from memory once. The parts are added in order; they depend
// on the number of outputs only, so the result does not depend on the number of threads.
Tensor sparse_conv_weight_grad(Tensor feats, Tensor grad, Tensor forward_map) {
  feats = as_contiguous(feats);
  grad = as_contiguous(grad);
  forward_map = as_contiguous(forward_map);
  const ConvTiles& tile = tiles();
  const int64_t in = feats.size(1), out = grad.size(1), volume = forward_map.size(0), outputs = forward_map.size(1);
  Tensor result = empty({out, volume, in}, ScalarType::Float, feats);
  const float *x = data<float>(feats), *y = data<float>(grad);
  const int32_t* map = data<int32_t>(forward_map);
  float* target = mutable_data<float>(result);
  const int64_t wide = padded(in, tile);
  Scratch<float> aligned(wide == in ? 1 : feats.size(0) * wide);  // rows padded so that whole vectors can be read
  if (wide != in) {
    parallel_for(feats.size(0), 4096, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        std::copy_n(x + r * in, in, aligned.get() + r * wide);
        std::fill(aligned.get() + r * wide + in, aligned.get() + (r + 1) * wide, 0.0f);
      }
    });
    x = aligned.get();
  }
  const int64_t high = std::min(out, kHeight), blocks = (out + high - 1) / std::max<int64_t>(high, 1), size = out * volume * in;
  const int64_t parts = std::clamp<int64_t>(outputs / kPart, 1, kParts), part_rows = (outputs + parts - 1) / parts;
  const int64_t most = std::min(volume * blocks * parts / (4 * num_threads()), kGradients / std::max<int64_t>(high * wide, 1));
  const int64_t groups = (volume + std::max<int64_t>(most, 1) - 1) / std::max<int64_t>(most, 1), group = (volume + groups - 1) / groups;
  Scratch<float> apart(parts == 1 ? 1 : parts * size);
  parallel_tasks(parts * groups * blocks, [&](int64_t task) {
    const int64_t part = task / (groups * blocks), first = std::min(volume, task / blocks % groups * group), channel = task % blocks * high;
    const Share share{part * part_rows, std::min(outputs, (part + 1) * part_rows), first, std::min(volume, first + group), channel,
                      std::min(high, out - channel)};
    std::vector<float> sums((share.last - first) * share.height * wide, 0.0f);
    sum_weight_grad(tile, x, wide, y, out, map, outputs, share, sums.data());
    float* to = parts == 1 ? target : apart.get() + part * size;
    for (int64_t k = first; k < share.last; ++k)
      for (int64_t o = 0; o < share.height; ++o)
        std::copy_n(sums.data() + ((k - first) * share.height + o) * wide, in, to + ((channel + o) * volume + k) * in);
  });
  if (parts > 1) {
    parallel_for(size, 16384, [&](int64_t first, int64_t last) {
      std::copy(apart.get() + first, apart.get() + last, target + first);
      for (int64_t part = 1; part < parts; ++part)
        for (int64_t i = first; i < last; ++i) target[i] += apart[part * size + i];
    });
  }
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("sparse_conv", TORCH_BOX(&suite3d::sparse_conv));
  m.impl("sparse_conv_input_grad", TORCH_BOX(&suite3d::sparse_conv_input_grad));
  m.impl("sparse_conv_weight_grad", TORCH_BOX(&suite3d::sparse_conv_weight_grad));
}
