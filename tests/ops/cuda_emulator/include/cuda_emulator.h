// The machine behind the shim headers: blocks one after another, the threads of a block as fibers that switch where they wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

struct CUstream_st;
using cudaStream_t = CUstream_st*;

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_emulator {

// Where a thread waits: what it called, and from where.
struct Place {
  const char* call;
  const char* file;
  int line;
};

// Ends the launch with this message. Does not return; what the threads hold is leaked.
[[noreturn]] void fail(const std::string& message);

// Every thread calls body() once. A launch that the device would refuse sets cudaGetLastError() instead.
void run(dim3 grid, dim3 block, size_t dynamic_shared, void (*body)(void*), void* context);

// Memory of one block, filled with rubbish when its first thread comes by; static and dynamic sizes are checked.
void shared_object(void* memory, size_t size);
void* dynamic_shared();

// Waits for every thread of the block, and returns how many of the predicates were true.
int block_barrier(Place place, bool predicate);

// Waits for the lanes of `mask`. `deposits` receives what each lane brought, for lanes outside of the mask rubbish.
void warp_barrier(Place place, unsigned mask, const void* value, size_t size, void* deposits);

unsigned lane();
unsigned long long random_bits();

// Lets other threads run, if there are any: at atomics and fences, some of the time.
void maybe_yield();
void yield();

template <class Body>
struct Launcher {
  Body body;
  dim3 grid, block;
  size_t dynamic_shared;

  template <class... Arguments>
  void operator()(Arguments... arguments) const {
    static_assert((sizeof(Arguments) + ... + 0) <= 4096, "kernel arguments take more than 4 KB");
    auto thread = [&] { body(arguments...); };  // by value: each thread has its own
    run(grid, block, dynamic_shared, [](void* context) { (*static_cast<decltype(thread)*>(context))(); }, &thread);
  }
};

template <class Body>
Launcher<Body> launcher(Body body, dim3 grid, dim3 block, size_t dynamic_shared = 0, cudaStream_t = nullptr) {
  return {body, grid, block, dynamic_shared};
}

}  // namespace cuda_emulator
