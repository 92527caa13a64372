// Points to voxels by a stable radix sort of (cell, point): the voxels come out sorted and the points grouped, in order.
#include "common.h"
#include "voxelize/grid.h"

namespace suite3d {
namespace {

constexpr int kBlock = 16;  // points whose cells are computed at a time: whole vectors, whatever their width

// Cells of points, a block at a time.
class Cells {
 public:
  explicit Cells(const Grid& grid) : grid_(grid) {
    for (int i = 0; i < 3 * kBlock; ++i)
      start_[i] = grid.start[i % 3], size_[i] = grid.size[i % 3], limit_[i] = static_cast<float>(grid.cells[i % 3]);
  }

  // inside[i] is 0 for a point out of range or NaN. True division: a multiplication by the reciprocal puts some points elsewhere.
  void of_block(const float* p, uint64_t* cell, uint32_t* inside) const {
    int32_t along[3 * kBlock], within[3 * kBlock];
    for (int i = 0; i < 3 * kBlock; ++i) {
      const float place = (p[i] - start_[i]) / size_[i];
      within[i] = (place >= 0) & (place < limit_[i]);
      along[i] = static_cast<int32_t>(within[i] ? place : 0.0f);
    }
    for (int i = 0; i < kBlock; ++i) {
      inside[i] = static_cast<uint32_t>(within[3 * i] & within[3 * i + 1] & within[3 * i + 2]);
      cell[i] = (static_cast<uint64_t>(along[3 * i + 2]) << grid_.shift_z) | (static_cast<uint64_t>(along[3 * i + 1]) << grid_.shift_y) |
                static_cast<uint64_t>(along[3 * i]);
    }
  }

 private:
  const Grid& grid_;
  float start_[3 * kBlock], size_[3 * kBlock], limit_[3 * kBlock];
};

// What is sorted: (cell, point) in 8 bytes where the cell needs at most 32 bits, in 16 otherwise.
struct Packed {
  uint64_t value;
  static Packed make(uint64_t cell, int64_t point) { return {cell << 32 | static_cast<uint64_t>(point)}; }
  uint64_t cell() const { return value >> 32; }
  int64_t point() const { return static_cast<int64_t>(value & 0xffffffffu); }
};
struct Wide {
  uint64_t key;
  int64_t index;
  static Wide make(uint64_t cell, int64_t point) { return {cell, point}; }
  uint64_t cell() const { return key; }
  int64_t point() const { return index; }
};

constexpr int kMaxDigit = 11;

// Points in range, grouped by cell.
template <class Record>
struct Groups {
  Scratch<Record> memory_a, memory_b;
  Record* sorted = nullptr;
  int64_t points = 0;
  int64_t parts = 1;
  std::vector<int64_t> first_voxel;  // voxels that begin before each part; the last entry is their number

  Groups(const float* xyz, const int64_t* offsets, int64_t batch_size, int64_t count, const Grid& grid) : memory_a(count), memory_b(count) {
    parts = std::max<int64_t>(1, std::min<int64_t>(num_threads(), count / 8192));
    const int passes = std::max(1, (grid.bits + kMaxDigit - 1) / kMaxDigit);
    const int digit = std::max(1, (grid.bits + passes - 1) / passes);
    const uint64_t mask = (uint64_t{1} << digit) - 1;
    const int64_t buckets = int64_t{1} << digit;
    Record *from = memory_a.get(), *to = memory_b.get();
    std::vector<int64_t> begin(parts), end(parts);
    std::vector<uint32_t> histograms(passes * parts * buckets, 0u);
    const int counted = parts == 1 ? passes : 1;  // a single part keeps its points: every histogram can be made at once
    const Cells cells(grid);
    parallel_parts(count, parts, [&](int64_t part, int64_t first, int64_t last) {  // cells, and the first histogram
      uint32_t* mine = histograms.data() + part * buckets;
      int64_t batch = std::upper_bound(offsets, offsets + batch_size + 1, first) - offsets - 1;
      Record* out = from + first;
      for (int64_t i = first; i < last;) {
        while (batch + 1 < batch_size && offsets[batch + 1] <= i) ++batch;
        const int64_t stop = std::min(last, offsets[batch + 1]);
        const uint64_t high = static_cast<uint64_t>(batch) << grid.shift_batch;
        for (; i < stop; i += kBlock) {
          uint64_t cell[kBlock];
          uint32_t inside[kBlock];
          const int64_t here = std::min<int64_t>(kBlock, stop - i);
          if (here == kBlock) {
            cells.of_block(xyz + 3 * i, cell, inside);
          } else {
            float rest[3 * kBlock] = {};
            std::copy_n(xyz + 3 * i, 3 * here, rest);
            cells.of_block(rest, cell, inside);
          }
          for (int64_t j = 0; j < here; ++j) {  // without a branch: a point out of range is overwritten by the next, and counts for nothing
            const uint64_t whole = cell[j] | high;
            *out = Record::make(whole, i + j);
            out += inside[j];
            for (int pass = 0; pass < counted; ++pass) mine[pass * buckets + (whole >> (pass * digit) & mask)] += inside[j];
          }
        }
        i = stop;
      }
      begin[part] = first;
      end[part] = out - from;
    });
    for (int pass = 0; pass < passes; ++pass) {
      const int shift = pass * digit;
      uint32_t* const histogram = histograms.data() + pass * parts * buckets;
      if (pass > 0) {
        parallel_parts(points, parts, [&](int64_t part, int64_t first, int64_t last) {
          uint32_t* mine = histogram + part * buckets;
          if (pass >= counted)
            for (int64_t i = first; i < last; ++i) ++mine[(from[i].cell() >> shift) & mask];
          begin[part] = first;
          end[part] = last;
        });
      }
      uint32_t total = 0;
      for (int64_t bucket = 0; bucket < buckets; ++bucket)
        for (int64_t part = 0; part < parts; ++part) {
          uint32_t& slot = histogram[part * buckets + bucket];
          const uint32_t here = slot;
          slot = total;
          total += here;
        }
      points = total;
      parallel_parts(parts, parts, [&](int64_t part, int64_t, int64_t) {
        uint32_t* mine = histogram + part * buckets;
        for (int64_t i = begin[part]; i < end[part]; ++i) to[mine[(from[i].cell() >> shift) & mask]++] = from[i];
      });
      std::swap(from, to);
    }
    sorted = from;
    first_voxel.assign(parts + 1, 0);
    parallel_parts(points, parts, [&](int64_t part, int64_t first, int64_t last) {
      int64_t voxels = first == 0 && last > 0;
      for (int64_t i = std::max<int64_t>(first, 1); i < last; ++i) voxels += sorted[i].cell() != sorted[i - 1].cell();
      first_voxel[part + 1] = voxels;
    });
    for (int64_t part = 0; part < parts; ++part) first_voxel[part + 1] += first_voxel[part];
  }

  bool starts_voxel(int64_t i) const { return i == 0 || sorted[i].cell() != sorted[i - 1].cell(); }
  int64_t voxels() const { return first_voxel.back(); }
};

using Three = std::tuple<Tensor, Tensor, Tensor>;

template <class Record>
Three dynamic_with(const Tensor& xyz, const Tensor& offsets, const Grid& grid) {
  const Groups<Record> groups(data<float>(xyz), data<int64_t>(offsets), offsets.size(0) - 1, xyz.size(0), grid);
  Tensor coords = empty({groups.voxels(), 4}, ScalarType::Int, xyz);
  Tensor point_voxel = empty({groups.points}, ScalarType::Long, xyz), order = empty({groups.points}, ScalarType::Long, xyz);
  int32_t* coord = mutable_data<int32_t>(coords);
  int64_t *voxel_out = mutable_data<int64_t>(point_voxel), *order_out = mutable_data<int64_t>(order);
  parallel_parts(groups.points, groups.parts, [&](int64_t part, int64_t first, int64_t last) {
    int64_t voxel = groups.first_voxel[part] - 1;
    for (int64_t i = first; i < last; ++i) {
      if (groups.starts_voxel(i)) grid.write(groups.sorted[i].cell(), coord + 4 * ++voxel);
      voxel_out[i] = voxel;
      order_out[i] = groups.sorted[i].point();
    }
  });
  return {coords, point_voxel, order};
}

// Output row of each voxel: -1 for those that are not among the first max_voxels touched in their scan. Returns the rows.
template <class Record>
int64_t number_voxels(const Groups<Record>& groups, const Grid& grid, int64_t max_voxels, std::vector<int64_t>& row) {
  std::vector<int64_t> starts, touched;
  for (int64_t i = 0; i < groups.points; ++i)
    if (groups.starts_voxel(i)) starts.push_back(i);
  const int64_t voxels = groups.voxels();
  int64_t kept = 0;
  for (int64_t first = 0; first < voxels;) {
    const uint64_t batch = groups.sorted[starts[first]].cell() >> grid.shift_batch;
    int64_t last = first;
    while (last < voxels && groups.sorted[starts[last]].cell() >> grid.shift_batch == batch) ++last;
    int64_t latest = INT64_MAX;
    if (last - first > max_voxels) {
      touched.clear();
      for (int64_t v = first; v < last; ++v) touched.push_back(groups.sorted[starts[v]].point());
      std::nth_element(touched.begin(), touched.begin() + (max_voxels - 1), touched.end());
      latest = touched[max_voxels - 1];
    }
    for (int64_t v = first; v < last; ++v) row[v] = groups.sorted[starts[v]].point() <= latest ? kept++ : -1;
    first = last;
  }
  return kept;
}

// Fill the voxels: rows of xyz and `channels` others; `Channels` is their number where it is known when this is compiled, else -1.
template <int Channels, class Record>
void fill_voxels(const Groups<Record>& groups, const Grid& grid, const float* point, const float* feat, int64_t any_channels, int64_t max_points,
                 const std::vector<int64_t>& row, int32_t* coord, int64_t* used_out, float* voxel_out) {
  const int64_t channels = Channels < 0 ? any_channels : Channels, width = 3 + channels;
  parallel_parts(groups.points, groups.parts, [&](int64_t part, int64_t first, int64_t last) {
    int64_t voxel = groups.first_voxel[part];
    int64_t i = first;
    while (i < last && !groups.starts_voxel(i)) ++i;  // the voxel that spans the border belongs to the part before
    while (i < last) {
      const uint64_t cell = groups.sorted[i].cell();
      const int64_t start = i, target = row.empty() ? voxel : row[voxel];
      ++voxel;
      float* out = voxel_out + target * max_points * width;
      for (; i < groups.points && groups.sorted[i].cell() == cell; ++i) {
        if (i + 16 < groups.points) {
          const int64_t ahead = groups.sorted[i + 16].point();
          __builtin_prefetch(point + 3 * ahead);
          if (channels > 0) __builtin_prefetch(feat + channels * ahead);
        }
        if (target < 0 || i - start >= max_points) continue;
        const int64_t source = groups.sorted[i].point();
        std::memcpy(out, point + 3 * source, 3 * sizeof(float));
        if (channels > 0) std::memcpy(out + 3, feat + channels * source, static_cast<size_t>(channels) * sizeof(float));
        out += width;
      }
      if (target < 0) continue;
      grid.write(cell, coord + 4 * target);
      used_out[target] = std::min(max_points, i - start);
      for (int64_t empty = max_points - used_out[target]; empty > 0; --empty, out += width)
        for (int64_t k = 0; k < width; ++k) out[k] = 0.0f;
    }
  });
}

template <class Record>
Three hard_with(const Tensor& xyz, const Tensor& feats, const Tensor& offsets, const Grid& grid, int64_t max_points, int64_t max_voxels) {
  const Groups<Record> groups(data<float>(xyz), data<int64_t>(offsets), offsets.size(0) - 1, xyz.size(0), grid);
  std::vector<int64_t> row;  // empty: every voxel is kept
  if (groups.voxels() > max_voxels) row.resize(groups.voxels());
  const int64_t count = row.empty() ? groups.voxels() : number_voxels(groups, grid, max_voxels, row);
  const int64_t channels = feats.size(1);
  Tensor coords = empty({count, 4}, ScalarType::Int, xyz), counts = empty({count}, ScalarType::Long, xyz);
  Tensor voxels = empty({count, max_points, 3 + channels}, ScalarType::Float, xyz);
  auto* fill = channels == 1 ? fill_voxels<1, Record> : channels == 2 ? fill_voxels<2, Record> : fill_voxels<-1, Record>;
  fill(groups, grid, data<float>(xyz), data<float>(feats), channels, max_points, row, mutable_data<int32_t>(coords), mutable_data<int64_t>(counts),
       mutable_data<float>(voxels));
  return {coords, voxels, counts};
}

bool packs(const Grid& grid, const Tensor& xyz) { return grid.bits <= 32 && xyz.size(0) <= INT32_MAX; }

Three dynamic_voxelize(Tensor xyz, Tensor offsets, std::vector<double> start, std::vector<double> size, std::vector<int64_t> cells) {
  xyz = as_contiguous(xyz);
  offsets = as_contiguous(offsets);
  const Grid grid = make_grid(start, size, cells, offsets.size(0) - 1);
  return packs(grid, xyz) ? dynamic_with<Packed>(xyz, offsets, grid) : dynamic_with<Wide>(xyz, offsets, grid);
}

Three hard_voxelize(Tensor xyz, Tensor feats, Tensor offsets, std::vector<double> start, std::vector<double> size, std::vector<int64_t> cells,
                    int64_t max_points, int64_t max_voxels) {
  xyz = as_contiguous(xyz);
  feats = as_contiguous(feats);
  offsets = as_contiguous(offsets);
  const Grid grid = make_grid(start, size, cells, offsets.size(0) - 1);
  return packs(grid, xyz) ? hard_with<Packed>(xyz, feats, offsets, grid, max_points, max_voxels)
                          : hard_with<Wide>(xyz, feats, offsets, grid, max_points, max_voxels);
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("dynamic_voxelize", TORCH_BOX(&suite3d::dynamic_voxelize));
  m.impl("hard_voxelize", TORCH_BOX(&suite3d::hard_voxelize));
}
