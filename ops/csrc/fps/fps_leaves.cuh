// Furthest point sampling of large clouds: points along a Hilbert curve in leaves with bounding boxes, of which a new sample changes
// only those that it is nearer to than their furthest point (Han et al. 2023, QuickFPS). One block a cloud, one barrier a sample.
//
// Exact, ties included: a box is as near as its nearest corner, edge or side in floats rounded like the distances themselves.
// Subtraction, product and sum are monotone in every operand, rounded too, so no point inside has a smaller distance than its box.
#pragma once

#include "curve/code.cuh"
#include "fps/fps_batch.cuh"

namespace suite3d {

constexpr int64_t LEAF_POINTS = 128;  // of a leaf, unless the cloud has more of them than a block has room for
constexpr int CURVE_BITS = 16;        // of an axis, at most
constexpr int FRAME_THREADS = 1024;

// A point, and its row in its cloud.
struct __align__(16) Slot {
  float x, y, z;
  int row;
};

// ---- order ----

// What puts the points of a cloud on a grid: half of its lower corner, cells for half a metre, the last cell.
struct Frame {
  float half_low[3], steps;
};

static __global__ void __launch_bounds__(FRAME_THREADS) fps_frames_kernel(const float* xyz, const int64_t* ends, float last, Frame* frames) {
  __shared__ float room[6][FRAME_THREADS / 32];
  const int64_t begin = ends[blockIdx.x], size = ends[blockIdx.x + 1] - begin;
  const int lane = threadIdx.x % 32;
  float most[6];  // of -x, -y, -z, x, y, z
  for (int i = 0; i < 6; ++i) most[i] = -INFINITY;
  for (int64_t row = threadIdx.x; row < size; row += FRAME_THREADS)
    for (int axis = 0; axis < 3; ++axis) {
      const float value = xyz[3 * (begin + row) + axis];
      most[axis] = fmaxf(most[axis], -value), most[3 + axis] = fmaxf(most[3 + axis], value);
    }
  for (int i = 0; i < 6; ++i) {
    for (int step = 16; step > 0; step /= 2) most[i] = fmaxf(most[i], __shfl_xor_sync(ALL_LANES, most[i], step));
    if (lane == 0) room[i][threadIdx.x / 32] = most[i];
  }
  __syncthreads();
  if (threadIdx.x > 0 || size <= 0) return;
  for (int i = 0; i < 6; ++i)
    for (int warp = 0; warp < FRAME_THREADS / 32; ++warp) most[i] = fmaxf(most[i], room[i][warp]);
  double extent = 0;  // in double and halves: no difference overflows
  for (int axis = 0; axis < 3; ++axis) extent = fmax(extent, static_cast<double>(most[3 + axis]) + most[axis]);
  Frame frame;
  for (int axis = 0; axis < 3; ++axis) frame.half_low[axis] = -.5f * most[axis];
  frame.steps = static_cast<float>(fmin(2. * last / extent, 3e38));
  frames[blockIdx.x] = frame;
}

// The points of the batch, those of each cloud along its curve.
inline Buffer<Slot> fps_slots(const Batch& batch, const Tensor& xyz, int64_t clouds, cudaStream_t stream) {
  const int64_t rows = xyz.size(0);
  const int cloud_bits = bit_width(clouds), depth = std::min(CURVE_BITS, (64 - cloud_bits) / 3);
  const uint32_t last = (1u << depth) - 1;
  const Buffer<Frame> frames(clouds, xyz);
  fps_frames_kernel<<<static_cast<unsigned>(clouds), FRAME_THREADS, 0, stream>>>(batch.xyz, batch.ends, static_cast<float>(last), frames.get());
  SUITE3D_CUDA(cudaGetLastError());
  const Buffer<uint64_t> code(rows, xyz), sorted_code(rows, xyz);
  const Buffer<int64_t> row(rows, xyz), sorted_row(rows, xyz);
  for_each(rows, stream, [=, frames = frames.get(), code = code.get(), row = row.get()] __device__(int64_t i) {
    const int64_t b = cloud_of(batch.ends, clouds, i);
    const Frame& frame = frames[b];
    uint32_t cell[3];
    for (int axis = 0; axis < 3; ++axis) {
      const float along = (.5f * batch.xyz[3 * i + axis] - frame.half_low[axis]) * frame.steps;
      cell[axis] = static_cast<uint32_t>(fminf(fmaxf(along, 0.f), static_cast<float>(last)));
    }
    code[i] = (3 * depth < 64 ? static_cast<uint64_t>(b) << 3 * depth : 0) | code_of(cell, depth, true, false);
    row[i] = i;
  });
  sort_pairs(code.get(), sorted_code.get(), row.get(), sorted_row.get(), rows, 3 * depth + cloud_bits, xyz, stream);
  Buffer<Slot> slots(rows, xyz);
  for_each(rows, stream, [=, row = sorted_row.get(), slot = slots.get()] __device__(int64_t i) {
    const int64_t r = row[i], begin = batch.ends[cloud_of(batch.ends, clouds, r)];
    slot[i] = {batch.xyz[3 * r], batch.xyz[3 * r + 1], batch.xyz[3 * r + 2], static_cast<int>(r - begin)};
  });
  return slots;
}

// ---- sampling ----

struct LeafBox {
  float low[3], high[3];

  __device__ float distance(const Slot& p) const {
    const float centre[3] = {p.x, p.y, p.z};
    float gap[3];
    for (int axis = 0; axis < 3; ++axis)
      gap[axis] = fmaxf(fmaxf(__fsub_rn(low[axis], centre[axis]), __fsub_rn(centre[axis], high[axis])), 0.f);
    return __fadd_rn(product_sum(gap[0], gap[0], gap[1], gap[1]), __fmul_rn(gap[2], gap[2]));
  }
};

// The points of one leaf, and how far they are from the samples. A leaf belongs to one warp from beginning to end.
struct Leaf {
  const Slot* slots;
  float* nearest;
  int points;

  // Lower the distances to visit(point, distance). Bits of the furthest distance, in every lane; its point in `winner`.
  template <int AT_ONCE, class Visit>  // so many loads are on their way together
  __device__ int visit(int lane, Slot* winner, const Visit& visit) const {
    Slot best{0, 0, 0, INT_MAX};
    int furthest = -1;
    for (int first = lane; first < points; first += 32 * AT_ONCE) {
      Slot p[AT_ONCE];
      float held[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i)
        if (first + 32 * i < points) p[i] = slots[first + 32 * i], held[i] = nearest[first + 32 * i];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        if (first + 32 * i >= points) continue;
        const float least = visit(p[i], held[i]);
        nearest[first + 32 * i] = least;
        const int bits = __float_as_int(least);
        if (bits > furthest || (bits == furthest && p[i].row < best.row)) furthest = bits, best = p[i];
      }
    }
    const Furthest of_leaf = warp_furthest({furthest, best.row});
    if (furthest == of_leaf.distance && best.row == of_leaf.row) *winner = best;  // one lane: rows differ
    return of_leaf.distance;
  }
};

// LEAVES boxes a lane, in registers (more than one go with half as many threads, which have twice the registers). Neighbours along the
// curve go to different warps: a sample that is near to several of them keeps several warps busy. winners: furthest point of each leaf.
template <int THREADS, int LEAVES>
__global__ void __launch_bounds__(THREADS) fps_leaves_kernel(Batch batch, const Slot* slots, float* nearest, int64_t smallest, int64_t largest) {
  constexpr int WARPS = THREADS / 32, AT_ONCE = 4;
  extern __shared__ Slot winners[];  // LEAVES * THREADS
  __shared__ Slot room[2][WARPS];
  __shared__ int room_distance[2][WARPS];
  const Cloud cloud(batch, blockIdx.x);
  if (cloud.count <= 0 || cloud.size < smallest || cloud.size > largest) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, size = static_cast<int>(cloud.size);
  slots += cloud.begin, nearest += cloud.begin;
  const int capacity = (size / (32 * LEAVES * THREADS) + (size % (32 * LEAVES * THREADS) > 0)) * 32;  // points of a leaf
  const auto number = [&](int k, int of_lane) { return (k * 32 + of_lane) * WARPS + warp; };
  const auto leaf_at = [&](int leaf) {
    const int64_t begin = int64_t{leaf} * capacity, rest = size - begin;
    return Leaf{slots + begin, nearest + begin, static_cast<int>(rest < 0 ? 0 : rest < capacity ? rest : capacity)};
  };

  LeafBox boxes[LEAVES];
  int furthest[LEAVES];  // bits of the furthest distance in the leaf
#pragma unroll
  for (int k = 0; k < LEAVES; ++k) {
    furthest[k] = -1;
    for (int turn = 0; turn < 32; ++turn) {
      const Leaf leaf = leaf_at(number(k, turn));
      if (leaf.points == 0) break;  // as are those behind it
      LeafBox box{{INFINITY, INFINITY, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}};
      const int most = leaf.template visit<AT_ONCE>(lane, winners + number(k, turn), [&](const Slot& p, float) {
        box.low[0] = fminf(box.low[0], p.x), box.low[1] = fminf(box.low[1], p.y), box.low[2] = fminf(box.low[2], p.z);
        box.high[0] = fmaxf(box.high[0], p.x), box.high[1] = fmaxf(box.high[1], p.y), box.high[2] = fmaxf(box.high[2], p.z);
        return INFINITY;
      });
      for (int axis = 0; axis < 3; ++axis)
        for (int step = 16; step > 0; step /= 2) {
          box.low[axis] = fminf(box.low[axis], __shfl_xor_sync(ALL_LANES, box.low[axis], step));
          box.high[axis] = fmaxf(box.high[axis], __shfl_xor_sync(ALL_LANES, box.high[axis], step));
        }
      if (lane == turn) boxes[k] = box, furthest[k] = most;
    }
  }
  __syncwarp();

  Slot current{cloud.points[3 * cloud.start], cloud.points[3 * cloud.start + 1], cloud.points[3 * cloud.start + 2], static_cast<int>(cloud.start)};
  Slot best{0, 0, 0, INT_MAX};  // of this warp, in every lane
  int best_distance = -1;
  bool stale = true;
  for (int64_t step = 0; step < cloud.count; ++step) {
    if (threadIdx.x == 0) cloud.chosen[step] = cloud.begin + current.row;
    if (step + 1 == cloud.count) return;
#pragma unroll
    for (int k = 0; k < LEAVES; ++k) {
      // a box no nearer than the furthest distance inside it holds no point that the new sample comes closer to
      const bool nearer = furthest[k] >= 0 && boxes[k].distance(current) < __int_as_float(furthest[k]);
      for (unsigned touched = __ballot_sync(ALL_LANES, nearer); touched; touched &= touched - 1) {
        const int owner = __ffs(static_cast<int>(touched)) - 1, leaf = number(k, owner);
        const int most = leaf_at(leaf).template visit<AT_ONCE>(lane, winners + leaf, [&](const Slot& p, float held) {
          const float point[3] = {p.x, p.y, p.z};
          return fminf(held, squared_distance(point, current.x, current.y, current.z));
        });
        if (lane == owner) furthest[k] = most;
        stale = true;
      }
    }
    if (stale) {
      __syncwarp();  // winners are there; the next ones are written after the barrier below
      Furthest mine{-1, INT_MAX};
      int leaf = 0;
#pragma unroll
      for (int k = 0; k < LEAVES; ++k) {
        if (furthest[k] < 0 || furthest[k] < mine.distance) continue;
        const int row = winners[number(k, lane)].row;
        if (furthest[k] > mine.distance || row < mine.row) mine = {furthest[k], row}, leaf = number(k, lane);
      }
      const Furthest of_warp = warp_furthest(mine);
      const unsigned owner = __ballot_sync(ALL_LANES, mine.row == of_warp.row && mine.distance == of_warp.distance);
      best_distance = of_warp.distance;
      best = winners[__shfl_sync(ALL_LANES, leaf, __ffs(static_cast<int>(owner)) - 1)];
      stale = false;
    }
    if (lane == 0) room[step & 1][warp] = best, room_distance[step & 1][warp] = best_distance;
    __syncthreads();
    const Furthest mine = lane < WARPS ? Furthest{room_distance[step & 1][lane], room[step & 1][lane].row} : Furthest{-1, INT_MAX};
    const Furthest of_block = warp_furthest(mine);
    const unsigned owner = __ballot_sync(ALL_LANES, mine.row == of_block.row && mine.distance == of_block.distance);
    current = room[step & 1][__ffs(static_cast<int>(owner)) - 1];
  }
}

// Sample the clouds of smallest to `most` points, by default as many as fill the leaves.
template <int THREADS, int LEAVES>
void fps_leaves(const Batch& batch, const Slot* slots, float* nearest, int64_t clouds, int64_t smallest, int64_t largest, cudaStream_t stream,
                int64_t most = THREADS * LEAVES * LEAF_POINTS) {
  if (largest < smallest) return;
  constexpr int SHARED = LEAVES * THREADS * static_cast<int>(sizeof(Slot));
  auto kernel = fps_leaves_kernel<THREADS, LEAVES>;
  SUITE3D_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
  kernel<<<static_cast<unsigned>(clouds), THREADS, SHARED, stream>>>(batch, slots, nearest, smallest, most);
  SUITE3D_CUDA(cudaGetLastError());
}

}  // namespace suite3d
