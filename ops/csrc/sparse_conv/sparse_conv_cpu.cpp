// Sparse convolution, output stationary: a tile of output rows stays in cache while each kernel offset adds its inputs.
// Every output row is summed by one thread, offset after offset, so the result does not depend on the number of threads.
#include "common.h"
#include "sparse_conv/tiles.h"

namespace suite3d {
namespace {

constexpr int kLanes = 4, kColumns = 2;
constexpr int rows_for(int) { return 4; }
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

constexpr int64_t kTile = 256;   // output rows a tile
constexpr int64_t kChunk = 64;    // pairs summed in registers before they are added to a weight gradient

int64_t padded(int64_t width, const ConvTiles& tile) { return (width + tile.lanes - 1) / tile.lanes * tile.lanes; }

// out[o] = bias + sum over k of x[map[k, o]] w[k]; w packed (K, depth, padded width).
void convolve(const float* x, int64_t depth, const float* w, int64_t width, const float* bias, const int32_t* map, int64_t volume, int64_t outputs,
              float* out) {
  const ConvTiles& tile = tiles();
  const int64_t wide = padded(width, tile);
  parallel_tasks((outputs + kTile - 1) / kTile, [&](int64_t task) {
    const int64_t first = task * kTile, count = std::min(kTile, outputs - first);
    int32_t rows[kTile + 16], positions[kTile + 16];
    thread_local std::vector<float> buffer;
    if (wide != width) buffer.resize(kTile * wide);
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
  const int64_t outputs = forward_map.size(1), wide = padded(s.out, tiles());
  const float* source = data<float>(weight);
  Scratch<float> packed(s.volume * s.in * wide);  // (out, K, in) -> (K, in, out)
  parallel_for(s.volume, 1 + 16384 / (s.in * wide), [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k)
      for (int64_t i = 0; i < s.in; ++i)
        for (int64_t o = 0; o < wide; ++o) packed[(k * s.in + i) * wide + o] = o < s.out ? source[(o * s.volume + k) * s.in + i] : 0.0f;
  });
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
  const int64_t inputs = backward_map.size(1), wide = padded(s.in, tiles());
  const float* source = data<float>(weight);
  Scratch<float> packed(s.volume * s.out * wide);  // (out, K, in) -> (K, out, in)
  parallel_for(s.volume, 1 + 16384 / (s.out * wide), [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      const int64_t from = mirrored ? s.volume - 1 - k : k;
      for (int64_t o = 0; o < s.out; ++o)
        for (int64_t i = 0; i < wide; ++i) packed[(k * s.out + o) * wide + i] = i < s.in ? source[(o * s.volume + from) * s.in + i] : 0.0f;
    }
  });
  Tensor out = empty({inputs, s.in}, ScalarType::Float, grad);
  convolve(data<float>(grad), s.out, packed.get(), s.in, nullptr, data<int32_t>(backward_map), s.volume, inputs, mutable_data<float>(out));
  return out;
}

// weight_grad[o, k, i] = sum over pairs of grad[output, o] feats[input, i]; pairs in order of the outputs, in chunks.
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
  const int64_t high = 96, blocks = (out + high - 1) / high;  // a task: one offset, up to 96 output channels, all input channels
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
  parallel_tasks(volume * blocks, [&](int64_t task) {
    const int64_t k = task / blocks, first = task % blocks * high, height = std::min(high, out - first);
    std::vector<int32_t> rows(outputs + 16), positions(outputs + 16);
    const int64_t pairs = tile.compact(map + k * outputs, outputs, rows.data(), positions.data());
    float* block = target + (first * volume + k) * in;
    for (int64_t r = 0; r < height; ++r) std::fill_n(block + r * volume * in, in, 0.0f);
    for (int64_t begin = 0; begin < pairs; begin += kChunk)
      tile.outer(y + first, out, x, wide, positions.data() + begin, rows.data() + begin, std::min(kChunk, pairs - begin), height, in, block,
                 volume * in);
  });
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("sparse_conv", TORCH_BOX(&suite3d::sparse_conv));
  m.impl("sparse_conv_input_grad", TORCH_BOX(&suite3d::sparse_conv_input_grad));
  m.impl("sparse_conv_weight_grad", TORCH_BOX(&suite3d::sparse_conv_weight_grad));
}
