// Points in range sorted by cell, those of a cell in their original order: a stable radix sort whose result does not depend on threads.
#pragma once

#include <utility>

#include "common.h"
#include "voxelize/cells.h"
#include "voxelize/grid.h"

namespace suite3d {

// What is sorted: (cell, point) in 8 bytes where the cell needs at most 32 bits, in 16 otherwise. digit: bits of its distance from the cell `base`.
struct Packed {
  uint64_t value;
  static Packed make(uint64_t cell, int64_t point) { return {cell << 32 | static_cast<uint64_t>(point)}; }
  uint64_t cell() const { return value >> 32; }
  int64_t point() const { return static_cast<int64_t>(value & 0xffffffffu); }
  bool same_cell(Packed other) const { return (value ^ other.value) <= 0xffffffffu; }
  uint64_t digit(uint64_t base, int shift, uint64_t mask) const { return (value - (base << 32)) >> (32 + shift) & mask; }
};
struct Wide {
  uint64_t key;
  int64_t index;
  static Wide make(uint64_t cell, int64_t point) { return {cell, point}; }
  uint64_t cell() const { return key; }
  int64_t point() const { return index; }
  bool same_cell(const Wide& other) const { return key == other.key; }
  uint64_t digit(uint64_t base, int shift, uint64_t mask) const { return (key - base) >> shift & mask; }
};

inline CellKernel* cell_kernel() {
#ifdef SUITE3D_X86
  return isa() == Isa::avx512 ? avx512::cells_block : isa() == Isa::avx2 ? avx2::cells_block : any::cells_block;
#else
  return any::cells_block;
#endif
}

// The points are dealt by the uppermost bits of their cells into stretches, each sorted by one thread; no cell is in two of them. Most
// stretches fit the first cache; one with more points has one value of those bits, which are not sorted again.
template <class Record>
class Groups {
 public:
  const Record* sorted = nullptr;
  int64_t points = 0, ranges = 0;
  std::vector<int64_t> begin;        // first entry of each stretch, and the end
  std::vector<int64_t> first_voxel;  // voxels before each stretch, and their number

  Groups(const float* xyz, const int64_t* offsets, int64_t batch_size, int64_t count, const Grid& grid)
      : memory_a_(count), memory_b_(count), bits_(grid.bits), split_(std::min({grid.bits, 12, std::max(bit_width(count) - 4, 0)})) {
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(num_threads(), count / 8192));
    histogram_.assign(parts << split_, 0u);
    std::vector<int64_t> first(parts), last(parts);
    parallel_parts(count, parts, [&](int64_t part, int64_t from, int64_t to) {
      first[part] = from;
      last[part] = from + record_points(xyz, offsets, batch_size, from, to, grid, memory_a_.get() + from, histogram_.data() + (part << split_));
    });
    Record* const dealt = deal(first, last);
    Record* const other = dealt == memory_a_.get() ? memory_b_.get() : memory_a_.get();
    sorted = dealt;
    first_voxel.assign(ranges + 1, 0);
    parallel_tasks(ranges, [&](int64_t range) {
      const int64_t size = begin[range + 1] - begin[range];
      sort_in(dealt + begin[range], other + begin[range], size, base_[range], bit_width(span_[range]));
      int64_t voxels = size > 0;
      for (int64_t i = begin[range] + 1; i < begin[range + 1]; ++i) voxels += !sorted[i].same_cell(sorted[i - 1]);
      first_voxel[range + 1] = voxels;
    });
    for (int64_t range = 0; range < ranges; ++range) first_voxel[range + 1] += first_voxel[range];
  }

  bool starts_voxel(int64_t i) const { return i == 0 || !sorted[i].same_cell(sorted[i - 1]); }
  int64_t voxels() const { return first_voxel.back(); }

 private:
  static constexpr int kMaxDigit = 10;
  static constexpr int64_t kRange = 1024, kMaxRanges = 256;

  Scratch<Record> memory_a_, memory_b_;
  std::vector<uint32_t> histogram_;
  std::vector<uint64_t> base_;  // lowest cell that a stretch can hold,
  std::vector<int64_t> span_;   // and how many it can, from there on
  int bits_, split_;

  // Records of the points in range among [from, to), and how many have each value of the uppermost bits. Returns their number.
  int64_t record_points(const float* xyz, const int64_t* offsets, int64_t batch_size, int64_t from, int64_t to, const Grid& grid, Record* records,
                        uint32_t* histogram) const {
    CellKernel* const kernel = cell_kernel();
    CellGrid cells{{}, {}, {}, {0, grid.shift_y, grid.shift_z}};
    for (int axis = 0; axis < 3; ++axis)
      cells.start[axis] = grid.start[axis], cells.size[axis] = grid.size[axis], cells.limit[axis] = static_cast<float>(grid.cells[axis]);
    const int shift = bits_ - split_;
    int64_t batch = std::upper_bound(offsets, offsets + batch_size + 1, from) - offsets - 1;
    Record* out = records;
    for (int64_t i = from; i < to;) {
      while (batch + 1 < batch_size && offsets[batch + 1] <= i) ++batch;
      const int64_t stop = std::min(to, offsets[batch + 1]);
      const uint64_t high = static_cast<uint64_t>(batch) << grid.shift_batch;
      for (; i < stop; i += CELL_BLOCK) {
        uint64_t cell[CELL_BLOCK];
        uint32_t inside[CELL_BLOCK];
        const int64_t here = std::min<int64_t>(CELL_BLOCK, stop - i);
        float rest[3 * CELL_BLOCK];
        if (here < CELL_BLOCK) std::fill(std::copy_n(xyz + 3 * i, 3 * here, rest), rest + 3 * CELL_BLOCK, 0.0f);
        kernel(here < CELL_BLOCK ? rest : xyz + 3 * i, cells, cell, inside);
        for (int64_t j = 0; j < here; ++j) {  // without a branch: a point out of range is overwritten by the next, and counts for nothing
          const uint64_t whole = cell[j] | high;
          *out = Record::make(whole, i + j);
          out += inside[j];
          histogram[whole >> shift] += inside[j];
        }
      }
      i = stop;
    }
    return out - records;
  }

  // Values of the uppermost bits in stretches of about `most` points, more only where one value has more. Sets everything of the stretches
  // but the number of voxels, and place[stretch, part] to the records that a part has of it. Returns the stretch of each value.
  std::vector<uint16_t> cut(int64_t parts, int64_t most, std::vector<int64_t>& place) {
    const int64_t values = int64_t{1} << split_, below = int64_t{1} << (bits_ - split_);
    std::vector<uint16_t> range_of(values);
    int64_t inside = 0;  // points of the last stretch
    for (int64_t value = 0, before = 0; value < values; ++value) {
      int64_t here = 0;
      for (int64_t part = 0; part < parts; ++part) here += histogram_[(part << split_) + value];
      if (here == 0) continue;
      if (begin.empty() || inside + here > most) {
        begin.push_back(before);
        base_.push_back(static_cast<uint64_t>(value * below));
        span_.push_back(0);
        place.resize(place.size() + parts, 0);
        inside = 0;
      }
      range_of[value] = static_cast<uint16_t>(begin.size() - 1);
      span_.back() = (value + 1) * below - static_cast<int64_t>(base_.back());
      for (int64_t part = 0; part < parts; ++part) *(place.end() - parts + part) += histogram_[(part << split_) + value];
      inside += here;
      before += here;
    }
    ranges = static_cast<int64_t>(begin.size());
    begin.push_back(points);
    return range_of;
  }

  // Deals the records of the parts into stretches; stable. Sets `points` and the stretches.
  Record* deal(const std::vector<int64_t>& first, const std::vector<int64_t>& last) {
    const int64_t parts = static_cast<int64_t>(first.size());
    for (int64_t part = 0; part < parts; ++part) points += last[part] - first[part];
    std::vector<int64_t> place;  // [stretch, part]: its records, then where they go
    const std::vector<uint16_t> range_of = cut(parts, std::max(kRange, 2 * points / kMaxRanges), place);
    if (parts == 1 && ranges <= 1) return memory_a_.get();
    int64_t total = 0;
    for (int64_t& here : place) total += std::exchange(here, total);
    const int shift = bits_ - split_;
    parallel_parts(parts, parts, [&](int64_t part, int64_t, int64_t) {
      std::vector<int64_t> next(ranges);
      for (int64_t range = 0; range < ranges; ++range) next[range] = place[range * parts + part];
      for (int64_t i = first[part]; i < last[part]; ++i) memory_b_[next[range_of[memory_a_[i].cell() >> shift]]++] = memory_a_[i];
    });
    return memory_b_.get();
  }

  // Sorts records[0, count) by the low bits of their distance from cell `base`, back and forth between two memories.
  template <int Passes>
  static void sort(Record* records, Record* spare, int64_t count, uint64_t base, int bits) {
    static_assert(Passes % 2 == 0);  // they end where they were
    const int digit = (bits + Passes - 1) / Passes;
    const uint64_t mask = (uint64_t{1} << digit) - 1;
    uint32_t all[Passes << kMaxDigit];
    std::fill_n(all, Passes << digit, 0u);
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t cell = records[i].cell() - base;
      for (int pass = 0; pass < Passes; ++pass) ++all[(static_cast<uint64_t>(pass) << digit) + (cell >> (pass * digit) & mask)];
    }
    for (int pass = 0; pass < Passes; ++pass) {
      uint32_t* const place = all + (static_cast<uint64_t>(pass) << digit);
      const int shift = pass * digit;
      uint32_t total = 0;
      for (uint64_t value = 0; value <= mask; ++value) total += std::exchange(place[value], total);
      for (int64_t i = 0; i < count; ++i) {
        const Record record = records[i];
        spare[place[record.digit(base, shift, mask)]++] = record;
      }
      std::swap(records, spare);
    }
  }

  template <int Passes = 2>
  static void sort_in(Record* records, Record* spare, int64_t count, uint64_t base, int bits) {
    if (bits == 0) return;
    if constexpr (Passes * kMaxDigit < 61 + 2 * kMaxDigit) {
      if (bits <= Passes * kMaxDigit) return sort<Passes>(records, spare, count, base, bits);
      sort_in<Passes + 2>(records, spare, count, base, bits);
    }
  }
};

}  // namespace suite3d
