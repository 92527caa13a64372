// Greedy non-maximum suppression: bit masks of who drops whom for a strip of boxes at a time, then one block walks down the strip.
// Nothing but the number of boxes kept goes to the host.
#include "box_iou/overlap.cuh"
#include "geometry/packs.cuh"

namespace suite3d {
namespace {

constexpr int64_t STRIP = 4096;  // rows of masks at a time: 512 bytes a box
constexpr int SIDE = 64;         // boxes of a word
constexpr int PAIRERS = 128, THREADS = 256;

struct Disc {
  float x, y, radius;

  // As in overlap_area: no circle that is not finite meets another.
  __device__ bool meets(const Disc& other) const {
    const float dx = other.x - x, dy = other.y - y, reach = radius + other.radius;
    return dx * dx + dy * dy <= reach * reach;
  }
};

// A block fills one word of SIDE rows: bit j % 64 of word j / 64 where box `first + row` drops box j (j later in the order). Pairs whose circles
// meet are gathered, then shared out evenly. Bit i % 64 of drops[i / 64]: box i drops one of another word.
__global__ void __launch_bounds__(PAIRERS) drop_masks(const Rectangle* boxes, int64_t count, int64_t words, int64_t first, double threshold,
                                                      uint64_t* masks, uint64_t* drops) {
  const int64_t row_base = first + blockIdx.y * int64_t{SIDE}, base = blockIdx.x * int64_t{SIDE};
  if (base < row_base) return;  // the word is never read
  __shared__ Disc rows[SIDE], columns[SIDE];
  __shared__ unsigned bits[2 * SIDE];
  __shared__ uint16_t pairs[SIDE * SIDE];
  __shared__ int found;
  const int here = threadIdx.x % SIDE, half = threadIdx.x / SIDE;
  const int64_t box = (half ? base : row_base) + here;
  Disc disc{NAN, NAN, NAN};
  if (box < count) disc = {static_cast<float>(boxes[box].x), static_cast<float>(boxes[box].y), boxes[box].radius};
  (half ? columns : rows)[here] = disc;
  bits[threadIdx.x] = 0;
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  const Disc mine = rows[here];
  for (int j = half * SIDE / 2; j < (half + 1) * SIDE / 2; ++j)
    if (base + j > row_base + here && mine.meets(columns[j])) pairs[atomicAdd(&found, 1)] = static_cast<uint16_t>(here * SIDE + j);
  __syncthreads();
  for (int at = threadIdx.x; at < found; at += PAIRERS) {
    const int i = pairs[at] / SIDE, j = pairs[at] % SIDE;
    const Rectangle a = boxes[row_base + i], b = boxes[base + j];
    const double shared = overlap_area(a, b);
    if (shared > 0 && shared / (a.area() + b.area() - shared) > threshold) atomicOr(bits + 2 * i + j / 32, 1u << j % 32);
  }
  __syncthreads();
  if (half || box >= count) return;
  const uint64_t mask = bits[2 * here] | uint64_t{bits[2 * here + 1]} << 32;
  masks[(box - first) * words + blockIdx.x] = mask;
  if (mask && base > row_base) atomicOr(reinterpret_cast<unsigned long long*>(drops + box / SIDE), 1ull << box % SIDE);
}

// The boxes of one word that are kept, by the first warp: only those that drop others of the word (`own`: lanes hold the masks of two rows
// within it) are looked at one by one.
__device__ inline uint64_t keep_word(uint64_t alive, const uint64_t (&own)[2]) {
  const uint64_t active = __ballot_sync(WARP, own[0] != 0) | uint64_t{__ballot_sync(WARP, own[1] != 0)} << 32;
  for (uint64_t left = alive & active; left;) {
    const int i = __ffsll(static_cast<long long>(left)) - 1;
    alive &= ~__shfl_sync(WARP, i < 32 ? own[0] : own[1], i % 32);
    left = i < 63 ? alive & active & ~uint64_t{0} << (i + 1) : 0;
  }
  return alive;
}

// One block goes down the words of a strip. state[0]: boxes kept so far.
__global__ void __launch_bounds__(THREADS, 1) walk_strip(const uint64_t* masks, const uint64_t* drops, const int64_t* order, int64_t count,
                                                         int64_t words, int64_t first, int64_t max_keep, uint64_t* dropped, int64_t* state,
                                                         int64_t* kept) {
  __shared__ uint64_t gone[STRIP / SIDE], keep;
  __shared__ int32_t rows[SIDE];
  const int lane = threadIdx.x % 32;
  const int64_t first_word = first / SIDE, last_word = min(first_word + STRIP / SIDE, words);
  for (int64_t word = first_word + threadIdx.x; word < last_word; word += THREADS) gone[word - first_word] = dropped[word];
  int64_t taken = state[0];
  uint64_t own[2] = {}, active = 0;
  const auto load = [&](int64_t word) {  // the masks of a word within itself, a step ahead of their use
    if (threadIdx.x >= 32 || word >= last_word) return;
    active = drops[word];
    for (int half = 0; half < 2; ++half) {
      const int64_t box = word * SIDE + 32 * half + lane;
      own[half] = box < count ? masks[(box - first) * words + word] : 0;
    }
  };
  load(first_word);
  __syncthreads();
  for (int64_t word = first_word; word < last_word && taken < max_keep; ++word) {
    const int64_t base = word * SIDE;
    if (threadIdx.x < 32) {
      const uint64_t there = count - base < SIDE ? (uint64_t{1} << (count - base)) - 1 : ~uint64_t{0};
      uint64_t alive = keep_word(there & ~gone[word - first_word], own);
      while (__popcll(alive) > max_keep - taken) alive &= ~(uint64_t{1} << (63 - __clzll(static_cast<long long>(alive))));
      const uint64_t dropping = alive & active;
      for (int i = lane; i < SIDE; i += 32) {
        const uint64_t before = (uint64_t{1} << i) - 1;
        if (dropping >> i & 1) rows[__popcll(dropping & before)] = static_cast<int32_t>(base - first) + i;
      }
      if (lane == 0) keep = alive, gone[word - first_word] = dropping;  // the word is done: its place holds who goes on to drop
    }
    load(word + 1);
    __syncthreads();
    const int place = static_cast<int>(threadIdx.x) - (THREADS - SIDE);  // the last threads: the first have masks to read
    if (place >= 0 && keep >> place & 1) kept[taken + __popcll(keep & ((uint64_t{1} << place) - 1))] = order[base + place];
    taken += __popcll(keep);
    const int dropping = __popcll(gone[word - first_word]);
    for (int64_t other = word + 1 + threadIdx.x; dropping > 0 && other < words; other += THREADS) {
      uint64_t all = 0;
#pragma unroll 8
      for (int i = 0; i < dropping; ++i) all |= masks[rows[i] * words + other];
      if (all) (other < last_word ? gone[other - first_word] : dropped[other]) |= all;
    }
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
  const Buffer<uint64_t> masks(std::min(count, STRIP) * words, boxes), marks(2 * words, boxes);  // marks: who drops others, who is dropped
  const Buffer<int64_t> kept(count, boxes), state(1, boxes);
  SUITE3D_CHECK(words <= INT32_MAX, "nms: too many boxes");
  SUITE3D_CUDA(cudaMemsetAsync(marks.get(), 0, 2 * sizeof(uint64_t) * words, stream));
  SUITE3D_CUDA(cudaMemsetAsync(state.get(), 0, sizeof(int64_t), stream));
  for (int64_t first = 0; first < count; first += STRIP) {
    const dim3 blocks(static_cast<unsigned>(words), static_cast<unsigned>(std::min(STRIP / SIDE, words - first / SIDE)));
    drop_masks<<<blocks, PAIRERS, 0, stream>>>(table.get(), count, words, first, iou_threshold, masks.get(), marks.get());
    SUITE3D_CUDA(cudaGetLastError());
    walk_strip<<<1, THREADS, 0, stream>>>(masks.get(), marks.get(), data<int64_t>(order), count, words, first, max_keep, marks.get() + words,
                                          state.get(), kept.get());
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
