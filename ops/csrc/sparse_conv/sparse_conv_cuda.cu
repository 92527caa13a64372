// Sparse convolution, output stationary, float32: a block owns 64 output rows x 64 output channels and loops over the kernel
// offsets that any of its rows has. No atomics: each value is summed by one thread in one order.
#include "common_cuda.cuh"

namespace suite3d {
namespace {

constexpr int kTile = 64;     // rows and columns of a block
constexpr int kDepth = 16;    // channels staged at a time
constexpr int kThreads = 256;  // 16 x 16, each 4 x 4 values

// Weight of offset k, input channel d, output channel c at w[k * offset + d * depth + c * column].
struct Strides {
  int64_t offset, depth, column;
};

__global__ void convolve_kernel(const float* x, int64_t depth, const float* w, Strides stride, bool reversed, int64_t width, const float* bias,
                                const int32_t* map, int64_t volume, int64_t outputs, float* out) {
  __shared__ float inputs[kDepth][kTile + 4], weights[kDepth][kTile + 4];
  __shared__ int32_t rows[kTile];
  const int64_t first_row = int64_t{blockIdx.x} * kTile, first_column = int64_t{blockIdx.y} * kTile;
  const int thread = threadIdx.x, ty = thread / 16, tx = thread % 16;
  float sum[4][4] = {};
  for (int64_t k = 0; k < volume; ++k) {
    int32_t mine = -1;
    if (thread < kTile) {
      mine = first_row + thread < outputs ? map[k * outputs + first_row + thread] : -1;
      rows[thread] = mine;
    }
    if (!__syncthreads_or(mine >= 0)) continue;
    const float* matrix = w + (reversed ? volume - 1 - k : k) * stride.offset;
    for (int64_t d0 = 0; d0 < depth; d0 += kDepth) {
      for (int i = thread; i < kTile * kDepth; i += kThreads) {
        const int row = i / kDepth, d = i % kDepth, column = i % kTile, e = i / kTile;
        inputs[d][row] = rows[row] >= 0 && d0 + d < depth ? x[rows[row] * depth + d0 + d] : 0.0f;
        weights[e][column] = d0 + e < depth && first_column + column < width ? matrix[(d0 + e) * stride.depth + (first_column + column) * stride.column] : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        float a[4], b[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] = inputs[d][4 * ty + i];
          b[i] = weights[d][4 * tx + i];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
      }
      __syncthreads();
    }
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int64_t row = first_row + 4 * ty + i, column = first_column + 4 * tx + j;
      if (row < outputs && column < width) out[row * width + column] = sum[i][j] + (bias ? bias[column] : 0.0f);
    }
}

void convolve(const Tensor& x, const Tensor& w, Strides stride, bool reversed, int64_t width, const float* bias, const Tensor& map, const Tensor& out,
              cudaStream_t stream) {
  const int64_t outputs = map.size(1);
  if (outputs == 0 || width == 0) return;
  const dim3 blocks(static_cast<unsigned>((outputs + kTile - 1) / kTile), static_cast<unsigned>((width + kTile - 1) / kTile));
  convolve_kernel<<<blocks, kThreads, 0, stream>>>(data<float>(x), x.size(1), data<float>(w), stride, reversed, width, bias, data<int32_t>(map),
                                                   map.size(0), outputs, mutable_data<float>(out));
  SUITE3D_CUDA(cudaGetLastError());
}

Tensor sparse_conv(Tensor feats, Tensor weight, std::optional<Tensor> bias, Tensor forward_map, Tensor, bool) {
  feats = as_contiguous(feats);
  weight = as_contiguous(weight);
  forward_map = as_contiguous(forward_map);
  if (bias) bias = as_contiguous(*bias);
  const OnDevice device(feats);
  const int64_t volume = weight.size(1), in = weight.size(2);
  Tensor out = empty({forward_map.size(1), weight.size(0)}, ScalarType::Float, feats);
  convolve(feats, weight, {in, 1, volume * in}, false, weight.size(0), bias ? data<float>(*bias) : nullptr, forward_map, out, device.stream());
  return out;
}

Tensor sparse_conv_input_grad(Tensor grad, Tensor weight, Tensor backward_map, bool mirrored) {
  grad = as_contiguous(grad);
  weight = as_contiguous(weight);
  backward_map = as_contiguous(backward_map);
  const OnDevice device(grad);
  const int64_t volume = weight.size(1), in = weight.size(2);
  Tensor out = empty({backward_map.size(1), in}, ScalarType::Float, grad);
  convolve(grad, weight, {in, volume * in, 1}, mirrored, in, nullptr, backward_map, out, device.stream());
  return out;
}

// Block (k, 64 output x 64 input channels, piece of the rows): partial[piece, o, k, i] = sum over its rows of y[r, o] x[map[k, r], i].
__global__ void weight_grad_kernel(const float* x, int64_t in, const float* y, int64_t out, const int32_t* map, int64_t volume, int64_t outputs,
                                   int64_t per_piece, float* partial) {
  __shared__ float left[kDepth][kTile + 4], right[kDepth][kTile + 4];
  __shared__ int32_t rows[kDepth];
  const int64_t tiles_in = (in + kTile - 1) / kTile;
  const int64_t k = blockIdx.x, first_out = blockIdx.y / tiles_in * kTile, first_in = blockIdx.y % tiles_in * kTile, piece = blockIdx.z;
  const int thread = threadIdx.x, ty = thread / 16, tx = thread % 16;
  const int64_t begin = piece * per_piece, end = begin + per_piece < outputs ? begin + per_piece : outputs;
  float sum[4][4] = {};
  for (int64_t r0 = begin; r0 < end; r0 += kDepth) {
    int32_t mine = -1;
    if (thread < kDepth) {
      mine = r0 + thread < end ? map[k * outputs + r0 + thread] : -1;
      rows[thread] = mine;
    }
    if (!__syncthreads_or(mine >= 0)) continue;
    for (int i = thread; i < kTile * kDepth; i += kThreads) {
      const int d = i / kTile, channel = i % kTile;
      const bool there = rows[d] >= 0;
      left[d][channel] = there && first_out + channel < out ? y[(r0 + d) * out + first_out + channel] : 0.0f;
      right[d][channel] = there && first_in + channel < in ? x[rows[d] * in + first_in + channel] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kDepth; ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(left[d][4 * ty + i], right[d][4 * tx + j], sum[i][j]);
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int64_t o = first_out + 4 * ty + i, c = first_in + 4 * tx + j;
      if (o < out && c < in) partial[((piece * out + o) * volume + k) * in + c] = sum[i][j];
    }
}

Tensor sparse_conv_weight_grad(Tensor feats, Tensor grad, Tensor forward_map) {
  feats = as_contiguous(feats);
  grad = as_contiguous(grad);
  forward_map = as_contiguous(forward_map);
  const OnDevice device(feats);
  const int64_t in = feats.size(1), out = grad.size(1), volume = forward_map.size(0), outputs = forward_map.size(1), weights = out * volume * in;
  Tensor result = empty({out, volume, in}, ScalarType::Float, feats);
  const int64_t pieces = std::max<int64_t>(1, std::min<int64_t>(16, outputs / 2048));  // by size alone: the same sums on every device
  const int64_t per_piece = (outputs + pieces - 1) / pieces;
  const Buffer<float> partial(pieces * weights, feats);
  const dim3 blocks(static_cast<unsigned>(volume), static_cast<unsigned>(((out + kTile - 1) / kTile) * ((in + kTile - 1) / kTile)),
                    static_cast<unsigned>(pieces));
  weight_grad_kernel<<<blocks, kThreads, 0, device.stream()>>>(data<float>(feats), in, data<float>(grad), out, data<int32_t>(forward_map), volume,
                                                               outputs, per_piece, partial.get());
  SUITE3D_CUDA(cudaGetLastError());
  for_each(weights, device.stream(), [=, part = partial.get(), target = mutable_data<float>(result)] __device__(int64_t i) {
    float sum = 0;
    for (int64_t p = 0; p < pieces; ++p) sum += part[p * weights + i];
    target[i] = sum;
  });
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) {
  m.impl("sparse_conv", TORCH_BOX(&suite3d::sparse_conv));
  m.impl("sparse_conv_input_grad", TORCH_BOX(&suite3d::sparse_conv_input_grad));
  m.impl("sparse_conv_weight_grad", TORCH_BOX(&suite3d::sparse_conv_weight_grad));
}
