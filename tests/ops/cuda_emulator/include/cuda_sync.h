// Barriers, warp operations and atomics. The place of the call is part of the call: threads must meet at the same one.
#pragma once

#define CUDA_EMULATOR_FROM const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUDA_EMULATOR_FROM) { cuda_emulator::block_barrier({"__syncthreads", file, line}, false); }
inline int __syncthreads_count(int predicate, CUDA_EMULATOR_FROM) {
  return cuda_emulator::block_barrier({"__syncthreads_count", file, line}, predicate != 0);
}
inline int __syncthreads_or(int predicate, CUDA_EMULATOR_FROM) {
  return cuda_emulator::block_barrier({"__syncthreads_or", file, line}, predicate != 0) > 0;
}
inline int __syncthreads_and(int predicate, CUDA_EMULATOR_FROM) {
  return cuda_emulator::block_barrier({"__syncthreads_and", file, line}, predicate == 0) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_EMULATOR_FROM) {
  char none;
  cuda_emulator::warp_barrier({"__syncwarp", file, line}, mask, &none, 0, &none);
}

// A legal answer, and the least useful one: the caller alone.
inline unsigned __activemask() { return 1u << cuda_emulator::lane(); }

namespace cuda_emulator {

template <class T>
struct Lanes {
  T value[32];
  Lanes(Place place, unsigned mask, const T& mine) {
    static_assert(std::is_trivially_copyable_v<T>);
    warp_barrier(place, mask, &mine, sizeof(T), value);
  }
};

// A lane of the same group of `width` lanes; where there is none, the caller's own.
template <class T>
T from_lane(const char* call, const char* file, int line, unsigned mask, T value, int width, int (*source)(int, int, int), int argument) {
  if (width <= 0 || width > 32 || (width & (width - 1))) fail(std::string(call) + ": the width is not a power of two up to 32");
  const Lanes<T> lanes({call, file, line}, mask, value);
  const int mine = static_cast<int>(lane()), at = source(mine, argument, width);
  return lanes.value[at];
}

template <class T, class Combine>
T reduce(Place place, unsigned mask, T value, const Combine& combine) {
  const Lanes<T> lanes(place, mask, value);
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1 && i != static_cast<int>(lane())) value = combine(value, lanes.value[i]);
  return value;
}

}  // namespace cuda_emulator

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_EMULATOR_FROM) {
  return cuda_emulator::from_lane("__shfl_sync", file, line, mask, value, width,
                                  [](int mine, int source, int width) { return mine / width * width + (source & (width - 1)); }, source);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDA_EMULATOR_FROM) {
  return cuda_emulator::from_lane("__shfl_xor_sync", file, line, mask, value, width,
                                  [](int mine, int bits, int width) { return (mine ^ bits) / width <= mine / width ? mine ^ bits : mine; }, bits);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_EMULATOR_FROM) {
  return cuda_emulator::from_lane("__shfl_up_sync", file, line, mask, value, width,
                                  [](int mine, int delta, int width) { return mine % width >= delta ? mine - delta : mine; }, static_cast<int>(delta));
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_EMULATOR_FROM) {
  return cuda_emulator::from_lane("__shfl_down_sync", file, line, mask, value, width,
                                  [](int mine, int delta, int width) { return mine % width + delta < width ? mine + delta : mine; },
                                  static_cast<int>(delta));
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_EMULATOR_FROM) {
  const cuda_emulator::Lanes<int> lanes({"__ballot_sync", file, line}, mask, predicate != 0);
  unsigned bits = 0;
  const unsigned mine = cuda_emulator::lane(), first = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z) - mine;
  for (unsigned i = 0; i < 32; ++i)
    if (mask >> i & 1 && first + i < blockDim.x * blockDim.y * blockDim.z && lanes.value[i]) bits |= 1u << i;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate, CUDA_EMULATOR_FROM) { return __ballot_sync(mask, predicate, file, line) != 0; }
inline int __all_sync(unsigned mask, int predicate, CUDA_EMULATOR_FROM) { return __ballot_sync(mask, !predicate, file, line) == 0; }
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, CUDA_EMULATOR_FROM) {
  const cuda_emulator::Lanes<T> lanes({"__match_any_sync", file, line}, mask, value);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1 && lanes.value[i] == value) bits |= 1u << i;
  return bits;
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, CUDA_EMULATOR_FROM) {
  return cuda_emulator::reduce({"__reduce_max_sync", file, line}, mask, value, [](unsigned a, unsigned b) { return a > b ? a : b; });
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, CUDA_EMULATOR_FROM) {
  return cuda_emulator::reduce({"__reduce_min_sync", file, line}, mask, value, [](unsigned a, unsigned b) { return a < b ? a : b; });
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, CUDA_EMULATOR_FROM) {
  return cuda_emulator::reduce({"__reduce_add_sync", file, line}, mask, value, [](unsigned a, unsigned b) { return a + b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, CUDA_EMULATOR_FROM) {
  return cuda_emulator::reduce({"__reduce_or_sync", file, line}, mask, value, [](unsigned a, unsigned b) { return a | b; });
}
inline int __reduce_max_sync(unsigned mask, int value, CUDA_EMULATOR_FROM) {
  return cuda_emulator::reduce({"__reduce_max_sync", file, line}, mask, value, [](int a, int b) { return a > b ? a : b; });
}
inline int __reduce_min_sync(unsigned mask, int value, CUDA_EMULATOR_FROM) {
  return cuda_emulator::reduce({"__reduce_min_sync", file, line}, mask, value, [](int a, int b) { return a < b ? a : b; });
}
inline int __reduce_add_sync(unsigned mask, int value, CUDA_EMULATOR_FROM) {
  return cuda_emulator::reduce({"__reduce_add_sync", file, line}, mask, value, [](int a, int b) { return a + b; });
}

inline void __threadfence() { cuda_emulator::maybe_yield(); }
inline void __threadfence_block() { cuda_emulator::maybe_yield(); }
inline void __nanosleep(unsigned) { cuda_emulator::yield(); }
[[noreturn]] inline void __trap() { cuda_emulator::fail("__trap()"); }

namespace cuda_emulator {
template <class T, class Update>
T atomic(T* at, const Update& update) {
  maybe_yield();
  const T before = *at;
  *at = update(before);
  return before;
}
template <class T>
using Same = std::common_type_t<T>;  // takes no part in deduction
}  // namespace cuda_emulator

template <class T>
inline T atomicAdd(T* at, cuda_emulator::Same<T> v) { return cuda_emulator::atomic(at, [=](T old) { return static_cast<T>(old + v); }); }
template <class T>
inline T atomicSub(T* at, cuda_emulator::Same<T> v) { return cuda_emulator::atomic(at, [=](T old) { return static_cast<T>(old - v); }); }
template <class T>
inline T atomicMin(T* at, cuda_emulator::Same<T> v) { return cuda_emulator::atomic(at, [=](T old) { return v < old ? v : old; }); }
template <class T>
inline T atomicMax(T* at, cuda_emulator::Same<T> v) { return cuda_emulator::atomic(at, [=](T old) { return v > old ? v : old; }); }
template <class T>
inline T atomicOr(T* at, cuda_emulator::Same<T> v) { return cuda_emulator::atomic(at, [=](T old) { return old | v; }); }
template <class T>
inline T atomicAnd(T* at, cuda_emulator::Same<T> v) { return cuda_emulator::atomic(at, [=](T old) { return old & v; }); }
template <class T>
inline T atomicXor(T* at, cuda_emulator::Same<T> v) { return cuda_emulator::atomic(at, [=](T old) { return old ^ v; }); }
template <class T>
inline T atomicExch(T* at, cuda_emulator::Same<T> v) { return cuda_emulator::atomic(at, [=](T) { return v; }); }
template <class T>
inline T atomicCAS(T* at, cuda_emulator::Same<T> compare, cuda_emulator::Same<T> v) {
  return cuda_emulator::atomic(at, [=](T old) { return old == compare ? v : old; });
}
