// Greedy non-maximum suppression: bit masks of who drops whom for a strip of boxes at a time, then one block walks down the strip.
// Nothing but the number of boxes kept goes to the host.
#include "box_iou/overlap.cuh"

namespace suite3d {
namespace {

constexpr int64_t STRIP = 4096;  // rows of masks at a time: 512 bytes a box
constexpr int THREADS = 256;

// Bit j % 64 of word j / 64: box `first + row` drops box j (j later in the order).
__global__ void drop_masks(const Rectangle* boxes, int64_t count, int64_t words, int64_t first, int64_t rows, double threshold, uint64_t* masks) {
  for (int64_t at = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; at < rows * words; at += int64_t{gridDim.x} * blockDim.x) {
    const int64_t i = first + at / words, base = at % words * 64;
    uint64_t mask = 0;
    if (base + 64 > i + 1) {
      const Rectangle box = boxes[i];
      for (int64_t j = base > i ? base : i + 1; j < base + 64 && j < count; ++j) {
        const double shared = overlap_area(box, boxes[j]);
        if (shared > 0 && shared / (box.area() + boxes[j].area() - shared) > threshold) mask |= uint64_t{1} << (j - base);
      }
    }
    masks[at] = mask;
  }
}

// One block. state[0]: boxes kept so far.
__global__ void __launch_bounds__(THREADS) walk_strip(const uint64_t* masks, const int64_t* order, int64_t words, int64_t first, int64_t rows,
                                                      int64_t max_keep, uint64_t* dropped, int64_t* state, int64_t* kept) {
  int64_t taken = state[0];
  __syncthreads();  // before anyone writes it
  for (int64_t row = 0; row < rows && taken < max_keep; ++row) {
    const int64_t i = first + row;
    if (dropped[i / 64] >> (i % 64) & 1) continue;  // every thread sees the same: words change only between the barriers
    if (threadIdx.x == 0) kept[taken] = order[i];
    ++taken;
    __syncthreads();
    for (int64_t word = i / 64 + threadIdx.x; word < words; word += THREADS) dropped[word] |= masks[row * words + word];
    __syncthreads();
  }
  if (threadIdx.x == 0) state[0] = taken;
}

Tensor nms_rotated(Tensor boxes, Tensor order, double iou_threshold, int64_t max_keep) {
  boxes = as_contiguous(boxes), order = as_contiguous(order);
  const OnDevice device(boxes);
  const cudaStream_t stream = device.stream();
  const int64_t count = boxes.size(0), words = (count + 63) / 64;
  if (count == 0 || max_keep <= 0) return empty({0}, ScalarType::Long, order);
  const Buffer<Rectangle> table = make_rectangles(data<float>(boxes), data<int64_t>(order), count, boxes, stream);
  const Buffer<uint64_t> masks(std::min(count, STRIP) * words, boxes), dropped(words, boxes);
  const Buffer<int64_t> kept(count, boxes), state(1, boxes);
  SUITE3D_CUDA(cudaMemsetAsync(dropped.get(), 0, sizeof(uint64_t) * words, stream));
  SUITE3D_CUDA(cudaMemsetAsync(state.get(), 0, sizeof(int64_t), stream));
  for (int64_t first = 0; first < count; first += STRIP) {
    const int64_t rows = std::min(STRIP, count - first);
    const unsigned blocks = static_cast<unsigned>(std::min<int64_t>((rows * words + 127) / 128, 1 << 20));
    drop_masks<<<blocks, 128, 0, stream>>>(table.get(), count, words, first, rows, iou_threshold, masks.get());
    SUITE3D_CUDA(cudaGetLastError());
    walk_strip<<<1, THREADS, 0, stream>>>(masks.get(), data<int64_t>(order), words, first, rows, max_keep, dropped.get(), state.get(), kept.get());
    SUITE3D_CUDA(cudaGetLastError());
  }
  const int64_t taken = read_one(state.get(), stream);
  const Tensor result = empty({taken}, ScalarType::Long, order);
  if (taken > 0) SUITE3D_CUDA(cudaMemcpyAsync(mutable_data<int64_t>(result), kept.get(), sizeof(int64_t) * taken, cudaMemcpyDeviceToDevice, stream));
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) { m.impl("nms_rotated", TORCH_BOX(&suite3d::nms_rotated)); }
