// Space-filling-curve positions, and the order they give: a stable radix sort whose result does not depend on the number of threads.
#include "curve/curve_kernel.h"

#include <utility>

#include "common.h"

namespace suite3d {
namespace {

constexpr int DIGIT = 11, BUCKETS = 1 << DIGIT;

CurveKernel* best_kernel() {
#ifdef SUITE3D_X86
  return isa() == Isa::avx512 ? avx512::curve_block : isa() == Isa::avx2 ? avx2::curve_block : any::curve_block;
#else
  return any::curve_block;
#endif
}

void check_depth(int64_t depth) {
  SUITE3D_CHECK(depth >= 1 && depth <= MAX_CURVE_DEPTH, "curve: depth ", depth, " is outside [1, 21]");
}

// f(row, code) for every row of (N, 3) cells, in any order, blocks in parallel. Returns the bits that any code has set.
template <class Cell, class F>
uint64_t each_code(const Cell* cells, int64_t count, int64_t depth, bool hilbert, bool swap, const F& f) {
  CurveKernel* kernel = best_kernel();
  const int64_t axes[3] = {swap ? 1 : 0, swap ? 0 : 1, 2}, blocks = (count + CURVE_BLOCK - 1) / CURVE_BLOCK;
  std::atomic<uint64_t> coordinate_bits{0}, code_bits{0};
  parallel_for(blocks, 64, [&](int64_t begin, int64_t end) {
    uint64_t of_cells = 0, of_codes = 0;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * CURVE_BLOCK, held = std::min<int64_t>(CURVE_BLOCK, count - first);
      uint32_t cell[3][CURVE_BLOCK];
      uint64_t code[CURVE_BLOCK];
      for (int64_t i = 0; i < CURVE_BLOCK; ++i) {
        const Cell* c = cells + 3 * (first + std::min(i, held - 1));
        for (int axis = 0; axis < 3; ++axis) {
          of_cells |= static_cast<uint64_t>(static_cast<int64_t>(c[axes[axis]]));
          cell[axis][i] = static_cast<uint32_t>(c[axes[axis]]);
        }
      }
      kernel(cell, static_cast<int>(depth), hilbert, code);
      for (int64_t i = 0; i < held; ++i) {
        of_codes |= code[i];
        f(first + i, code[i]);
      }
    }
    coordinate_bits |= of_cells;
    code_bits |= of_codes;
  });
  SUITE3D_CHECK(coordinate_bits >> depth == 0, "curve: a coordinate is outside [0, 2^", depth, ")");
  return code_bits;
}

template <class F>
uint64_t each_code(const Tensor& coords, int64_t depth, bool hilbert, bool swap, const F& f) {
  if (coords.scalar_type() == ScalarType::Int) return each_code(data<int32_t>(coords), coords.size(0), depth, hilbert, swap, f);
  return each_code(data<int64_t>(coords), coords.size(0), depth, hilbert, swap, f);
}

// What is sorted: in one word cloud | code | row where the bits suffice, else the code and cloud | row.
template <int WORDS>
struct Record {
  uint64_t word[WORDS];
};

struct Field {
  int word, low, bits;
};

// Stable sort by the fields, the last one first in importance. Digits that all records share are passed over. The result is in one of
// the two arrays.
template <int WORDS>
Record<WORDS>* sort_records(Record<WORDS>* from, Record<WORDS>* to, int64_t count, std::initializer_list<Field> fields) {
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(num_threads(), count / 8192));
  std::vector<uint32_t> next(parts * BUCKETS);
  for (const Field& field : fields)
    for (int done = 0; done < field.bits; done += DIGIT) {
      const int shift = field.low + done;
      const uint64_t mask = (uint64_t{1} << std::min(DIGIT, field.bits - done)) - 1;
      const auto digit = [&](const Record<WORDS>& record) { return record.word[field.word] >> shift & mask; };
      std::fill(next.begin(), next.end(), 0u);
      parallel_parts(count, parts, [&](int64_t part, int64_t first, int64_t last) {
        uint32_t* mine = next.data() + part * BUCKETS;
        for (int64_t i = first; i < last; ++i) ++mine[digit(from[i])];
      });
      uint32_t total = 0, most = 0;
      for (int64_t bucket = 0; bucket < BUCKETS; ++bucket) {
        const uint32_t before = total;
        for (int64_t part = 0; part < parts; ++part) total += std::exchange(next[part * BUCKETS + bucket], total);
        most = std::max(most, total - before);
      }
      if (most == count) continue;
      parallel_parts(count, parts, [&](int64_t part, int64_t first, int64_t last) {
        uint32_t* mine = next.data() + part * BUCKETS;
        for (int64_t i = first; i < last; ++i) to[mine[digit(from[i])]++] = from[i];
      });
      std::swap(from, to);
    }
  return from;
}

// f(cloud, begin, end) for every cloud: its rows are [begin, end).
template <class F>
void each_cloud(const int64_t* ends, int64_t clouds, const F& f) {
  parallel_for(clouds, std::max<int64_t>(1, 65536 * clouds / std::max<int64_t>(ends[clouds], 1)), [&](int64_t first, int64_t last) {
    for (int64_t cloud = first; cloud < last; ++cloud) f(cloud, ends[cloud], ends[cloud + 1]);
  });
}

template <int WORDS>
void write_order(const Record<WORDS>* sorted, int64_t count, uint64_t row_mask, int64_t* order, int64_t* inverse) {
  parallel_for(count, 16384, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      order[i] = static_cast<int64_t>(sorted[i].word[WORDS - 1] & row_mask);
      inverse[order[i]] = i;
    }
  });
}

Tensor curve_codes(const Tensor& coords_any, int64_t depth, bool hilbert, bool swap) {
  const Tensor coords = as_contiguous(coords_any);
  check_depth(depth);
  const Tensor codes = empty({coords.size(0)}, ScalarType::Long, coords);
  int64_t* out = mutable_data<int64_t>(codes);
  each_code(coords, depth, hilbert, swap, [out](int64_t row, uint64_t code) { out[row] = static_cast<int64_t>(code); });
  return codes;
}

std::tuple<Tensor, Tensor> curve_order(const Tensor& coords_any, const Tensor& offsets_any, int64_t depth, bool hilbert, bool swap) {
  const Tensor coords = as_contiguous(coords_any), offsets = as_contiguous(offsets_any);
  check_depth(depth);
  const int64_t count = coords.size(0), clouds = offsets.size(0) - 1;
  const Tensor order = empty({count}, ScalarType::Long, coords), inverse = empty({count}, ScalarType::Long, coords);
  if (count == 0) return {order, inverse};
  SUITE3D_CHECK(count <= INT32_MAX && clouds <= INT32_MAX, "curve: more than 2^31 - 1 rows or clouds");
  const int64_t* ends = data<int64_t>(offsets);
  int64_t *order_out = mutable_data<int64_t>(order), *inverse_out = mutable_data<int64_t>(inverse);
  uint64_t* code = reinterpret_cast<uint64_t*>(inverse_out);  // until the order is known
  const uint64_t used = each_code(coords, depth, hilbert, swap, [code](int64_t row, uint64_t c) { code[row] = c; });
  const int cloud_bits = bit_width(clouds), row_bits = bit_width(count), code_bits = used == 0 ? 0 : 64 - __builtin_clzll(used);
  if (cloud_bits + code_bits + row_bits <= 64) {
    Scratch<Record<1>> records(count), others(count);
    each_cloud(ends, clouds, [&](int64_t cloud, int64_t first, int64_t last) {
      const uint64_t high = clouds > 1 ? static_cast<uint64_t>(cloud) << (code_bits + row_bits) : 0;
      for (int64_t i = first; i < last; ++i) records[i] = {{high | code[i] << row_bits | static_cast<uint64_t>(i)}};
    });
    const auto* sorted = sort_records(records.get(), others.get(), count, {{0, row_bits, code_bits + cloud_bits}});
    write_order(sorted, count, (uint64_t{1} << row_bits) - 1, order_out, inverse_out);
  } else {
    Scratch<Record<2>> records(count), others(count);
    each_cloud(ends, clouds, [&](int64_t cloud, int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) records[i] = {{code[i], static_cast<uint64_t>(cloud) << 32 | static_cast<uint64_t>(i)}};
    });
    const auto* sorted = sort_records(records.get(), others.get(), count, {{0, 0, code_bits}, {1, 32, cloud_bits}});
    write_order(sorted, count, 0xffffffffu, order_out, inverse_out);
  }
  return {order, inverse};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("curve_codes", TORCH_BOX(&suite3d::curve_codes));
  m.impl("curve_order", TORCH_BOX(&suite3d::curve_order));
}
