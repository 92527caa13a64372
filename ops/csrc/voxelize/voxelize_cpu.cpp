// Points to voxels by a stable radix sort of (cell, point): the voxels come out sorted and the points grouped, in order.
#include "common.h"
#include "voxelize/grid.h"

namespace suite3d {
namespace {

// False for a point out of range or NaN. True division: a multiplication by the reciprocal puts some points elsewhere.
inline bool cell_of(const Grid& grid, const float* p, uint64_t* cell) {
  const float fx = (p[0] - grid.start[0]) / grid.size[0];
  const float fy = (p[1] - grid.start[1]) / grid.size[1];
  const float fz = (p[2] - grid.start[2]) / grid.size[2];
  const bool inside = (fx >= 0) & (fy >= 0) & (fz >= 0) & (fx < static_cast<float>(grid.cells[0])) & (fy < static_cast<float>(grid.cells[1])) &
                      (fz < static_cast<float>(grid.cells[2]));
  if (!inside) return false;
  *cell = (static_cast<uint64_t>(fz) << grid.shift_z) | (static_cast<uint64_t>(fy) << grid.shift_y) | static_cast<uint64_t>(fx);
  return true;
}

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
    std::vector<uint32_t> histogram(parts * buckets);
    parallel_parts(count, parts, [&](int64_t part, int64_t first, int64_t last) {  // cells, and the first histogram
      uint32_t* mine = histogram.data() + part * buckets;
      int64_t batch = std::upper_bound(offsets, offsets + batch_size + 1, first) - offsets - 1;
      Record* out = from + first;
      for (int64_t i = first; i < last;) {
        while (batch + 1 < batch_size && offsets[batch + 1] <= i) ++batch;
        const int64_t stop = std::min(last, offsets[batch + 1]);
        const uint64_t high = static_cast<uint64_t>(batch) << grid.shift_batch;
        for (; i < stop; ++i) {
          uint64_t cell;
          if (!cell_of(grid, xyz + 3 * i, &cell)) continue;
          cell |= high;
          *out++ = Record::make(cell, i);
          ++mine[cell & mask];
        }
      }
      begin[part] = first;
      end[part] = out - from;
    });
    for (int pass = 0; pass < passes; ++pass) {
      const int shift = pass * digit;
      if (pass > 0) {
        std::fill(histogram.begin(), histogram.end(), 0u);
        parallel_parts(points, parts, [&](int64_t part, int64_t first, int64_t last) {
          uint32_t* mine = histogram.data() + part * buckets;
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
        uint32_t* mine = histogram.data() + part * buckets;
        for (int64_t i = begin[part]; i < end[part]; ++i) to[mine[(from[i].cell() >> shift) & mask]++] = from[i];
      });
      std::swap(from, to);
    }
    sorted = from;
    first_voxel.assign(parts + 1, 0);
    parallel_parts(points, parts, [&](int64_t part, int64_t first, int64_t last) {
      int64_t voxels = 0;
      for (int64_t i = first; i < last; ++i) voxels += starts_voxel(i);
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

template <class Record>
Three hard_with(const Tensor& xyz, const Tensor& feats, const Tensor& offsets, const Grid& grid, int64_t max_points, int64_t max_voxels) {
  const Groups<Record> groups(data<float>(xyz), data<int64_t>(offsets), offsets.size(0) - 1, xyz.size(0), grid);
  std::vector<int64_t> row;  // empty: every voxel is kept
  if (groups.voxels() > max_voxels) row.resize(groups.voxels());
  const int64_t count = row.empty() ? groups.voxels() : number_voxels(groups, grid, max_voxels, row);
  const int64_t channels = feats.size(1), width = 3 + channels;
  Tensor coords = empty({count, 4}, ScalarType::Int, xyz), counts = empty({count}, ScalarType::Long, xyz);
  Tensor voxels = empty({count, max_points, width}, ScalarType::Float, xyz);
  const float *point = data<float>(xyz), *feat = data<float>(feats);
  int32_t* coord = mutable_data<int32_t>(coords);
  int64_t* used_out = mutable_data<int64_t>(counts);
  float* voxel_out = mutable_data<float>(voxels);
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
          __builtin_prefetch(feat + channels * ahead);
        }
        if (target < 0 || i - start >= max_points) continue;
        const int64_t source = groups.sorted[i].point();
        for (int k = 0; k < 3; ++k) out[k] = point[3 * source + k];
        for (int64_t k = 0; k < channels; ++k) out[3 + k] = feat[channels * source + k];
        out += width;
      }
      if (target < 0) continue;
      grid.write(cell, coord + 4 * target);
      used_out[target] = std::min(max_points, i - start);
      std::fill(out, voxel_out + (target + 1) * max_points * width, 0.0f);
    }
  });
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
