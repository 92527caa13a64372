// The k smallest keys of a thread, sorted, in registers. A key orders as its parts do: the bits of a squared distance, then a row.
#pragma once

#include "geometry/packs.cuh"

namespace suite3d {

constexpr uint64_t NO_KEY = uint64_t{0x7f800000u} << 32;  // infinity: after every neighbour, before what is not a number

__device__ inline uint64_t make_key(float distance, int row) { return uint64_t{__float_as_uint(distance)} << 32 | static_cast<unsigned>(row); }
__device__ inline int64_t key_row(uint64_t key) { return key < NO_KEY ? static_cast<int64_t>(key & 0xffffffffu) : -1; }
__device__ inline float key_distance(uint64_t key) { return key < NO_KEY ? __uint_as_float(static_cast<unsigned>(key >> 32)) : INFINITY; }

__device__ inline uint64_t lesser(uint64_t a, uint64_t b) { return a < b ? a : b; }
__device__ inline uint64_t greater(uint64_t a, uint64_t b) { return a < b ? b : a; }

// Room for K keys, of which the last k count: the first K - k stay 0, so that the k-th smallest is always the last and every index is
// known at compile time.
template <int K>
struct KeyList {
  uint64_t key[K];

  __device__ void clear(int k) {
#pragma unroll
    for (int i = 0; i < K; ++i) key[i] = i < K - k ? 0 : NO_KEY;
  }

  // Each key takes its place and the largest falls out; no change where it is beyond the last.
  __device__ void insert(uint64_t value) {
#pragma unroll
    for (int i = K - 1; i > 0; --i) key[i] = greater(key[i - 1], lesser(key[i], value));
    key[0] = lesser(key[0], value);
  }

  // To shared memory, [K, 32] keys of a warp: the k that count, then nothing.
  __device__ void put(uint64_t* memory, int k, int lane) const {
#pragma unroll
    for (int i = 0; i < K; ++i) {
      if (i >= k) memory[32 * i + lane] = NO_KEY;
      if (i >= K - k) memory[32 * (i - K + k) + lane] = key[i];
    }
  }

  // The smallest of both: the minima of one list and the other turned round are bitonic, and sorted in log2(K) steps.
  __device__ void merge(const uint64_t* memory, int lane) {
#pragma unroll
    for (int i = 0; i < K; ++i) key[i] = lesser(key[i], memory[32 * (K - 1 - i) + lane]);
#pragma unroll
    for (int stride = K / 2; stride > 0; stride /= 2) {
#pragma unroll
      for (int i = 0; i < K; ++i) {
        if (i & stride) continue;
        const uint64_t a = key[i], b = key[i | stride];
        key[i] = lesser(a, b), key[i | stride] = greater(a, b);
      }
    }
  }
};

constexpr int PENDING = 8, CHUNK = 4;  // candidates that may wait, and those looked at between two looks at how many do

// Candidates wait in shared memory until a lane of the warp has no more room, then all lanes insert together: one lane's candidate is
// seldom its neighbour's, and an insertion costs as much for one lane as for thirty-two.
template <int K, int THREADS>
struct Collector {
  uint64_t (*pending)[THREADS];  // [PENDING, THREADS]
  KeyList<K> list;
  int held = 0;

  __device__ Collector(uint64_t (*memory)[THREADS], int k) : pending(memory) { list.clear(k); }

  // Nothing from here on is of use.
  __device__ uint64_t bound() const { return list.key[K - 1]; }

  __device__ void offer(uint64_t key) {
    if (key < bound()) pending[held++][threadIdx.x] = key;
  }

  __device__ void flush() {
    const int most = static_cast<int>(__reduce_max_sync(WARP, static_cast<unsigned>(held)));
    for (int i = 0; i < most; ++i) list.insert(i < held ? pending[i][threadIdx.x] : NO_KEY);
    held = 0;
  }

  __device__ void make_room() {
    if (__any_sync(WARP, held > PENDING - CHUNK)) flush();
  }

  // offer(key_of(i)) for i in [0, count), the same count in all lanes.
  template <class F>
  __device__ void scan(int count, const F& key_of) {
    int at = 0;
    for (; at + CHUNK <= count; at += CHUNK) {
#pragma unroll
      for (int i = 0; i < CHUNK; ++i) offer(key_of(at + i));
      make_room();
    }
    for (; at < count; ++at) offer(key_of(at));
    flush();
  }
};

}  // namespace suite3d
