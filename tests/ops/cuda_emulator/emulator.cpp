// Scheduler of the emulated device, host calls of the runtime, and the two services of a CUDA torch that the kernels use.
#include <cuda_runtime.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulator {
namespace {

constexpr size_t STATIC_SHARED = 48 << 10;
size_t shared_limit = 227 << 10;  // of a block, as on Hopper
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t STACK = 512 << 10;
#else
constexpr size_t STACK = 128 << 10;
#endif

// ---- a fiber: a stack and the registers that are saved on it ----

struct Fiber {
  char* stack = nullptr;  // null: the stack that launches
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context;
#endif
  void* fake_stack = nullptr;
  const void* bottom = nullptr;  // for the address sanitiser
  size_t size = 0;
};

void work();

#if defined(__x86_64__)
extern "C" void cuda_emulator_switch(void** save, void* load) __attribute__((visibility("hidden")));
asm(".text\n.hidden cuda_emulator_switch\n.globl cuda_emulator_switch\n.type cuda_emulator_switch,@function\ncuda_emulator_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
    ".size cuda_emulator_switch, .-cuda_emulator_switch\n");

void prepare(Fiber& fiber) {
  void** top = reinterpret_cast<void**>(fiber.stack + STACK);
  *--top = nullptr;  // where work() would return to; it does not
  *--top = reinterpret_cast<void*>(&work);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.pointer = top;
}
void exchange(Fiber& from, Fiber& to) { cuda_emulator_switch(&from.pointer, to.pointer); }
#else
void prepare(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack, fiber.context.uc_stack.ss_size = STACK, fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, work, 0);
}
void exchange(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
#endif

// ---- the block that runs ----

enum class State : uint8_t { ready, waits_for_block, waits_for_warp, done };

struct Thread {
  uint3 index;
  State state;
  bool predicate;
  unsigned mask;
  Place place;
  Fiber* fiber;
  const void* value;  // of a warp operation
  size_t size;
  char* deposits;  // 32 values
};

struct Device {
  std::mutex mutex;  // one launch at a time
  std::mt19937_64 random;
  bool seeded = false;
  Fiber launching;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;
  Fiber* running = nullptr;
  Fiber* left = nullptr;  // the fiber that was switched away from
  std::vector<Thread> threads;
  std::vector<Thread*> ready;
  Thread* current = nullptr;
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  size_t done = 0, at_barrier = 0;
  int true_predicates = 0, result = 0;
  bool take_last = false;  // else any of those that are ready
  std::string error;
  std::map<void*, size_t> shared;  // objects of this block
  size_t static_shared = 0, dynamic_size = 0, largest_allowed = STATIC_SHARED;
  std::unique_ptr<char[]> dynamic_memory;
  cudaError_t last_error = cudaSuccess;
  std::string last_message;
  struct Copy {
    void* to;
    std::vector<char> bytes;
  };
  std::vector<Copy> copies;  // to the host, seen there after the next wait
};

Device device;

void switch_to(Fiber& to) {
  Fiber& from = *device.running;
  device.left = &from;
  device.running = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.size);
#endif
  exchange(from, to);
#if defined(__SANITIZE_ADDRESS__)
  const bool launching = device.running == &device.launching;
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(from.fake_stack, &bottom, &size);
  if (!launching && device.left == &device.launching) device.launching.bottom = bottom, device.launching.size = size;
#endif
}

Fiber& new_fiber() {
  if (!device.idle.empty()) {
    Fiber& fiber = *device.idle.back();
    device.idle.pop_back();
    return fiber;
  }
  device.fibers.push_back(std::make_unique<Fiber>());
  Fiber& fiber = *device.fibers.back();
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  char* memory = static_cast<char*>(mmap(nullptr, STACK + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) throw std::runtime_error("CUDA emulator: no memory for the stack of a thread");
  fiber.stack = memory + page;
  fiber.bottom = fiber.stack, fiber.size = STACK;
  prepare(fiber);
  return fiber;
}

// The next thread to run, null if none can.
Thread* pick() {
  auto& ready = device.ready;
  if (ready.empty()) return nullptr;
  if (!device.take_last) std::swap(ready.back(), ready[device.random() % ready.size()]);
  Thread* thread = ready.back();
  ready.pop_back();
  return thread;
}

void enter(Thread& thread) {
  device.current = &thread;
  threadIdx = thread.index;
}

// From a fiber whose own thread cannot go on: to the next thread, or back to the launch.
void leave() {
  Thread* next = pick();
  if (!next) return switch_to(device.launching);
  if (!next->fiber) next->fiber = &new_fiber();
  device.current = next;
  if (next->fiber != device.running) switch_to(*next->fiber);
}

// A fiber runs fresh threads one after another until one of them waits: then the thread keeps the fiber.
void work() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (device.left == &device.launching) device.launching.bottom = bottom, device.launching.size = size;
#endif
  for (;;) {
    Thread* mine = device.current;
    enter(*mine);
    device.body(device.context);
    mine->state = State::done;
    ++device.done;
    Thread* next = pick();
    if (next && !next->fiber) {
      next->fiber = device.running;
      device.current = next;
      continue;
    }
    device.idle.push_back(device.running);
    device.current = next;
    switch_to(next ? *next->fiber : device.launching);
  }
}

void wait(Thread& thread) {
  leave();
  enter(thread);
}

void make_ready(Thread& thread) {
  thread.state = State::ready;
  device.ready.push_back(&thread);
}

std::string name_of(const Place& place) {
  const char* slash = std::strrchr(place.file, '/');
  return std::string(place.call) + " at " + (slash ? slash + 1 : place.file) + ":" + std::to_string(place.line);
}

bool same(const char* a, const char* b) { return a == b || !std::strcmp(a, b); }
bool same(const Place& a, const Place& b) { return a.line == b.line && same(a.call, b.call) && same(a.file, b.file); }

std::string name_of(const Thread& thread) {
  return "thread (" + std::to_string(thread.index.x) + ", " + std::to_string(thread.index.y) + ", " + std::to_string(thread.index.z) + ")";
}

// Nobody can go on: who waits where.
std::string describe_deadlock() {
  std::map<std::string, std::pair<int, std::string>> where;
  for (const Thread& thread : device.threads) {
    std::string place = "returned";
    if (thread.state == State::waits_for_block) place = "wait in " + name_of(thread.place) + " for the block";
    if (thread.state == State::waits_for_warp) {
      char mask[16];
      std::snprintf(mask, sizeof(mask), "%08x", thread.mask);
      place = "wait in " + name_of(thread.place) + " for the lanes " + mask;
    }
    auto& entry = where[place];
    if (entry.first++ == 0) entry.second = name_of(thread);
  }
  std::string text = "deadlock: the threads of a block wait at different places:";
  for (const auto& [place, entry] : where) text += " " + std::to_string(entry.first) + " " + place + " (first: " + entry.second + ");";
  return text;
}

void seed() {
  if (device.seeded) return;
  const char* wish = std::getenv("SUITE3D_EMULATOR_SEED");
  device.random.seed(wish ? std::strtoull(wish, nullptr, 10) : 0);
  device.seeded = true;
}

// All threads can go on: in any order, or one warp, and one thread of a warp, ahead of the others as far as it gets.
void draw_order() {
  device.take_last = device.random() % 2;
  const size_t count = device.threads.size(), warps = (count + 31) / 32, from_warp = device.random() % warps, from_lane = device.random() % 32;
  for (size_t w = 0; w < warps; ++w)
    for (size_t l = 0; l < 32; ++l) {
      const size_t at = (w + from_warp) % warps * 32 + (l + from_lane) % 32;
      if (at < count) make_ready(device.threads[at]);
    }
}

void scribble(void* memory, size_t size) {
  char* bytes = static_cast<char*>(memory);
  const uint64_t kind = device.random() % 3;
  if (kind == 0) return void(std::memset(bytes, 0xff, size));  // NaN, -1
  if (kind == 1) return void(std::memset(bytes, 0x7e, size));  // very large
  for (size_t i = 0; i < size; i += 8) {
    const uint64_t bits = device.random();
    std::memcpy(bytes + i, &bits, std::min<size_t>(8, size - i));
  }
}

void run_block(uint3 block) {
  blockIdx = block;
  const unsigned count = blockDim.x * blockDim.y * blockDim.z;
  device.threads.assign(count, Thread{});
  device.ready.clear();
  for (unsigned i = 0; i < count; ++i) {
    device.threads[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
  }
  draw_order();
  device.done = device.at_barrier = 0, device.true_predicates = 0;
  device.shared.clear(), device.static_shared = 0;
  if (device.dynamic_size) scribble(device.dynamic_memory.get(), device.dynamic_size);
  Thread* first = pick();
  first->fiber = &new_fiber();
  device.current = first;
  device.running = &device.launching;
  switch_to(*first->fiber);
  if (device.error.empty() && device.done != count) device.error = describe_deadlock();
}

void reset_fibers() {
  device.idle.clear();
  for (auto& fiber : device.fibers) {
    prepare(*fiber);
    device.idle.push_back(fiber.get());
  }
}

bool allowed(dim3 grid, dim3 block, size_t dynamic) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535 && threads > 0 && threads <= 1024 &&
         block.z <= 64 && dynamic <= device.largest_allowed;
}

}  // namespace

void fail(const std::string& message) {
  device.error = message;
  switch_to(device.launching);
  std::abort();  // never resumed
}

void run(dim3 grid, dim3 block, size_t dynamic, void (*body)(void*), void* context) {
  const std::lock_guard<std::mutex> only(device.mutex);
  seed();
  if (!allowed(grid, block, dynamic)) {
    device.last_error = cudaErrorInvalidConfiguration;
    return;
  }
  device.body = body, device.context = context;
  device.dynamic_size = dynamic;
  device.dynamic_memory.reset(dynamic ? new char[dynamic] : nullptr);
  gridDim = grid, blockDim = block;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  uint64_t stride = blocks > 1 ? device.random() % blocks : 1;  // an order of the blocks: i -> start + i * stride, the two coprime
  while (std::gcd(stride, blocks) != 1) ++stride;
  const uint64_t start = device.random() % blocks;
  for (uint64_t i = 0; i < blocks && device.error.empty(); ++i) {
    const uint64_t at = static_cast<uint64_t>((static_cast<unsigned __int128>(i) * stride + start) % blocks);
    run_block({static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y), static_cast<unsigned>(at / grid.x / grid.y)});
  }
  if (device.error.empty()) return;
  reset_fibers();
  device.last_message = "CUDA emulator: block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
                        std::to_string(blockIdx.z) + "): " + device.error;
  device.error.clear();
  throw std::runtime_error(device.last_message);
}

void shared_object(void* memory, size_t size) {
  if (!device.shared.emplace(memory, size).second) return;
  device.static_shared += size;
  if (device.static_shared > STATIC_SHARED) fail("more than 48 KB of static shared memory");
  if (device.static_shared + device.dynamic_size > shared_limit) fail("more shared memory than a block can have");
  scribble(memory, size);
}

void* dynamic_shared() {
  if (!device.dynamic_size) fail("dynamic shared memory is used, but none was asked for at the launch");
  return device.dynamic_memory.get();
}

int block_barrier(Place place, bool predicate) {
  Thread& mine = *device.current;
  mine.state = State::waits_for_block, mine.place = place, mine.predicate = predicate;
  device.true_predicates += predicate;
  if (++device.at_barrier == device.threads.size()) {
    for (const Thread& thread : device.threads)
      if (!same(thread.place, place)) fail("divergent barrier: " + name_of(mine) + " waits in " + name_of(place) + ", " + name_of(thread) + " in " + name_of(thread.place));
    device.result = device.true_predicates;
    device.at_barrier = 0, device.true_predicates = 0;
    draw_order();
  }
  wait(mine);
  return device.result;  // of this barrier: the next one needs this thread
}

unsigned lane() { return static_cast<unsigned>(device.current - device.threads.data()) % 32; }

void warp_barrier(Place place, unsigned mask, const void* value, size_t size, void* deposits) {
  Thread& mine = *device.current;
  const size_t at = static_cast<size_t>(&mine - device.threads.data()), base = at / 32 * 32;
  if (!(mask >> at % 32 & 1)) fail(name_of(mine) + " is not in the mask of its own " + name_of(place));
  mine.state = State::waits_for_warp, mine.place = place, mine.mask = mask, mine.value = value, mine.size = size, mine.deposits = static_cast<char*>(deposits);
  bool complete = true;
  for (size_t i = base; complete && i < base + 32 && i < device.threads.size(); ++i) {
    const Thread& other = device.threads[i];
    if (!(mask >> (i - base) & 1)) continue;
    if (other.state == State::done) fail(name_of(mine) + " waits in " + name_of(place) + " for " + name_of(other) + ", which has returned");
    complete = other.state == State::waits_for_warp && other.mask == mask && other.size == size && same(other.place, place);
  }
  if (complete) {
    char brought[32 * sizeof(uint64_t) * 2];
    if (size > sizeof(uint64_t) * 2) fail(name_of(place) + ": values of more than 16 bytes");
    scribble(brought, 32 * size);
    for (size_t i = base; i < base + 32 && i < device.threads.size(); ++i)
      if (mask >> (i - base) & 1) std::memcpy(brought + (i - base) * size, device.threads[i].value, size);
    for (size_t i = base; i < base + 32 && i < device.threads.size(); ++i)
      if (mask >> (i - base) & 1) std::memcpy(device.threads[i].deposits, brought, 32 * size);
    const size_t from_lane = device.random() % 32;
    for (size_t l = 0; l < 32; ++l) {
      const size_t i = (l + from_lane) % 32;
      if (mask >> i & 1 && base + i < device.threads.size()) make_ready(device.threads[base + i]);
    }
  }
  wait(mine);
}

unsigned long long random_bits() { return device.random(); }

void yield() {
  Thread& mine = *device.current;
  make_ready(mine);
  wait(mine);
}

void maybe_yield() {
  if (device.current && !device.ready.empty() && device.random() % 4 == 0) yield();
}

}  // namespace cuda_emulator

using cuda_emulator::device;

cudaError_t cudaGetLastError() { return std::exchange(device.last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return device.last_error; }
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaSuccess) return "no error";
  return error == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "invalid argument";
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t) {
  if (kind != cudaMemcpyDeviceToHost) return std::memmove(to, from, size), cudaSuccess;
  const char* bytes = static_cast<const char*>(from);
  device.copies.push_back({to, {bytes, bytes + size}});
  std::memset(to, 0xaa, size);  // who reads before the wait reads this
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) { return std::memmove(to, from, size), cudaSuccess; }
cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t) { return std::memset(to, value, size), cudaSuccess; }
cudaError_t cudaMemset(void* to, int value, size_t size) { return std::memset(to, value, size), cudaSuccess; }
cudaError_t cudaDeviceSynchronize() {
  for (const auto& copy : device.copies) std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
  device.copies.clear();
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaGetDevice(int* index) { return *index = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(cuda_emulator::shared_limit); break;
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    default: return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
cudaError_t cuda_emulator_allow_shared(cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > cuda_emulator::shared_limit) return cudaErrorInvalidValue;
  device.largest_allowed = std::max(device.largest_allowed, static_cast<size_t>(value));
  return cudaSuccess;
}

// In place of what a CUDA torch has (the builder renames the calls): one device, its default stream.
extern "C" {
int32_t cuda_emulator_get_stream(int32_t, void** stream) { return *stream = nullptr, 0; }
int32_t cuda_emulator_create_guard(int32_t, void** guard) { return *guard = &device, 0; }
int32_t cuda_emulator_delete_guard(void*) { return 0; }
int32_t cuda_emulator_guard_set_index(void*, int32_t) { return 0; }
// For Python, through ctypes.
__attribute__((visibility("default"))) void cuda_emulator_seed(uint64_t seed) { device.random.seed(seed), device.seeded = true; }
__attribute__((visibility("default"))) size_t cuda_emulator_limit_shared(size_t bytes) { return std::exchange(cuda_emulator::shared_limit, bytes); }
__attribute__((visibility("default"))) const char* cuda_emulator_last_message() { return device.last_message.c_str(); }
}
