// What every CPU kernel needs: stable tensors, checks, threads, the instruction set of this machine.
//
// Only the LibTorch stable ABI (torch >= 2.10) is used, so one binary serves every later torch and every Python.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

// Arguments are checked with good messages in Python; these catch what only the kernel can see.
#define SUITE3D_CHECK(condition, ...) STD_TORCH_CHECK(condition, __VA_ARGS__)

#ifdef __CUDACC__
#define SUITE3D_HOST_DEVICE __host__ __device__
#else
#define SUITE3D_HOST_DEVICE
#endif

namespace suite3d {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Asks for huge pages, as NumPy does for its large arrays: where memory comes fresh from the system, it saves thousands of page faults
// (measured: a sparse convolution with an output of 39 MB takes 0.9 of its time). Only advice; what the system makes of it is its setting.
inline void advise_huge_pages(void* memory, int64_t bytes) {
#ifdef __linux__
  if (bytes < int64_t{4} << 20) return;
  static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t start = reinterpret_cast<uintptr_t>(memory), aligned = (start + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(aligned), static_cast<size_t>(bytes) - (aligned - start), MADV_HUGEPAGE);
#endif
}

// New uninitialised tensor on the device of `like`. (torch::stable::new_empty goes through torch's dispatcher, which where its code is not in
// cache takes 8 us longer.)
inline Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype, const Tensor& like) {
  std::vector<int64_t> strides(sizes.size());
  int64_t step = 1;
  for (size_t axis = sizes.size(); axis-- > 0; step *= std::max<int64_t>(sizes.begin()[axis], 1)) strides[axis] = step;
  int32_t device_type = 0, device_index = 0;
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides.data(), static_cast<int32_t>(dtype),
                                                  device_type, device_index, &handle));
  Tensor tensor(handle);
  if (tensor.is_cpu()) advise_huge_pages(tensor.mutable_data_ptr(), tensor.numel() * static_cast<int64_t>(tensor.element_size()));
  return tensor;
}

inline Tensor as_contiguous(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// For offsets on the CPU.
inline void check_offsets(const Tensor& offsets, int64_t rows) {
  const int64_t count = offsets.numel() - 1, *ends = data<int64_t>(offsets);
  SUITE3D_CHECK(count >= 0 && ends[0] == 0 && ends[count] == rows, "offsets must run from 0 to the number of rows");
  for (int64_t b = 0; b < count; ++b) SUITE3D_CHECK(ends[b] <= ends[b + 1], "offsets must not descend");
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// f(begin, end) on ranges of [0, count), in torch's own thread pool; a range holds at least `grain` items.
template <class F>
void parallel_for(int64_t count, int64_t grain, const F& f) {
  if (count <= 0) return;
  if (count <= grain) return f(int64_t{0}, count);
  torch::stable::parallel_for(0, count, std::max<int64_t>(grain, 1), f);
}

inline int64_t num_threads() { return torch::stable::get_num_threads(); }

// f(part, begin, end) for `parts` equal pieces of [0, count): the same pieces whatever the number of threads.
template <class F>
void parallel_parts(int64_t count, int64_t parts, const F& f) {
  const int64_t size = (count + parts - 1) / std::max<int64_t>(parts, 1);
  parallel_for(parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) f(part, std::min(count, part * size), std::min(count, (part + 1) * size));
  });
}

// f(task) for each task in [0, count), handed out one by one: for tasks of unequal size. Each task runs on one thread.
template <class F>
void parallel_tasks(int64_t count, const F& f) {
  std::atomic<int64_t> next{0};
  parallel_for(std::min(count, num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t task = next++; task < count; task = next++) f(task);
  });
}

// Instruction sets that kernels are compiled for: *_cpu.cpp for any machine, *_avx2.cpp and *_avx512.cpp beside it.
enum class Isa { any = 0, avx2 = 1, avx512 = 2 };

// Best set that this machine has; SUITE3D_ISA=any|avx2|avx512 lowers it (read once; for tests).
inline Isa isa() {
  static const Isa level = [] {
    Isa best = Isa::any;
#ifdef SUITE3D_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::avx2;
    if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
      best = Isa::avx512;
#endif
    const char* wish = std::getenv("SUITE3D_ISA");
    if (wish && !std::strcmp(wish, "any")) return Isa::any;
    if (wish && !std::strcmp(wish, "avx2")) return std::min(best, Isa::avx2);
    return best;
  }();
  return level;
}

// Bits that hold the numbers 0 .. values - 1.
inline int bit_width(int64_t values) {
  int bits = 0;
  while (bits < 63 && (int64_t{1} << bits) < values) ++bits;
  return bits;
}

// Uninitialised scratch memory.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : memory_(new T[static_cast<size_t>(std::max<int64_t>(count, 1))]) {}
  T* get() { return memory_.get(); }
  T& operator[](int64_t i) { return memory_[i]; }
  const T& operator[](int64_t i) const { return memory_[i]; }

 private:
  std::unique_ptr<T[]> memory_;
};

}  // namespace suite3d
