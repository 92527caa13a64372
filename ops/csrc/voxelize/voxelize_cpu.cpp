// Points to voxels: sorted by cell, the voxels come out sorted and the points grouped, in order.
#include "voxelize/cells_kernel.h"

#include "voxelize/groups.h"

namespace suite3d {
namespace {

using Three = std::tuple<Tensor, Tensor, Tensor>;

template <class Record>
Three dynamic_with(const Tensor& xyz, const Tensor& offsets, const Grid& grid) {
  const Groups<Record> groups(data<float>(xyz), data<int64_t>(offsets), offsets.size(0) - 1, xyz.size(0), grid);
  Tensor coords = empty({groups.voxels(), 4}, ScalarType::Int, xyz);
  Tensor point_voxel = empty({groups.points}, ScalarType::Long, xyz), order = empty({groups.points}, ScalarType::Long, xyz);
  int32_t* coord = mutable_data<int32_t>(coords);
  int64_t *voxel_out = mutable_data<int64_t>(point_voxel), *order_out = mutable_data<int64_t>(order);
  parallel_tasks(groups.ranges, [&](int64_t range) {
    int64_t voxel = groups.first_voxel[range] - 1;
    for (int64_t i = groups.begin[range]; i < groups.begin[range + 1]; ++i) {
      voxel += groups.starts_voxel(i);
      grid.write(groups.sorted[i].cell(), coord + 4 * voxel);  // for every point: cheaper than a branch that is guessed wrong half the time
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

// Where the voxels go, of `max_points` rows of `width`; row: output row of each voxel, null where every voxel is kept.
struct Slots {
  int64_t max_points, width;
  const int64_t* row;
  int32_t* coords;
  int64_t* counts;
  float* values;

  int64_t stride() const { return max_points * width; }
  int64_t target(int64_t voxel) const { return row ? row[voxel] : voxel; }
};

constexpr int64_t kChunk = 128;  // points at a time: their voxels are cleared, then filled while they are in cache

// How far a stretch is filled, and what becomes of the points of a chunk. Nothing else points to one (hence __restrict below: without it
// every count that is written would have it read again).
struct Filling {
  int64_t voxel, opened;                           // the voxel of the last point, and its first point
  int64_t rank = 0, open_row = -1, cleared = -1;   // points of it so far, where it goes, and up to which row the output is cleared
  uint64_t cell = ~uint64_t{0};                    // no cell yet
  int64_t starts = 0, start[kChunk + 1], place[kChunk];  // first points of voxels; where each point goes, -1 for nowhere
};

// No branch asks where a voxel ends, which would be guessed wrong half the time.
template <class Record>
void place_points(const Record* sorted, int64_t first, int64_t here, const Slots to, Filling& __restrict filling) {
  int64_t starts = 0, voxel = filling.voxel, rank = filling.rank;
  uint64_t before = filling.cell;
  for (int64_t j = 0; j < here; ++j) {
    const uint64_t cell = sorted[first + j].cell();
    const bool begins = cell != before;
    before = cell;
    filling.start[starts] = first + j;
    starts += begins;
    voxel += begins;
    rank = begins ? 0 : rank + 1;
    const int64_t target = to.target(voxel);
    filling.place[j] = (target >= 0) & (rank < to.max_points) ? target * to.stride() + rank * to.width : -1;
  }
  filling.starts = starts, filling.voxel = voxel, filling.rank = rank, filling.cell = before;
}

void close_voxel(const Slots& slots, const Filling& filling, int64_t end) {
  if (filling.open_row >= 0) slots.counts[filling.open_row] = std::min(slots.max_points, end - filling.opened);
}

// Zeros by small stores: a memset of some kilobytes becomes `rep stosb`, with which the whole of hard_voxelize takes 1.05 to 1.08 times as long.
void clear(float* values, int64_t size) {
  constexpr int64_t kLine = 16;
  int64_t i = 0;
  for (; i + kLine <= size; i += kLine) std::memset(values + i, 0, kLine * sizeof(float));
  for (; i < size; ++i) values[i] = 0.0f;
}

// Coordinates and counts of the voxels that start in the chunk, and zeros for their points.
template <class Record>
void open_voxels(const Record* sorted, const Grid grid, const Slots slots, Filling& __restrict filling) {
  int64_t voxel = filling.voxel - filling.starts, end = filling.cleared;
  for (int64_t n = 0; n < filling.starts; ++n) {
    const int64_t target = slots.target(++voxel);
    close_voxel(slots, filling, filling.start[n]);
    filling.opened = filling.start[n];
    filling.open_row = target;
    if (target < 0) continue;
    grid.write(sorted[filling.opened].cell(), slots.coords + 4 * target);
    if (filling.cleared < 0) filling.cleared = target;
    end = target + 1;
  }
  const int64_t size = (end - filling.cleared) * slots.stride();
  clear(slots.values + filling.cleared * slots.stride(), size);
  filling.cleared = end;
}

// Fill the voxels with rows of xyz and `channels` others; `Channels` is their number where it is known when this is compiled, else -1.
template <int Channels, class Record>
void fill_voxels(const Groups<Record>& groups, const Grid& grid, const float* point, const float* feat, int64_t any_channels, const Slots& slots) {
  parallel_tasks(groups.ranges, [&](int64_t range) {
    const int64_t channels = Channels < 0 ? any_channels : Channels, last = groups.begin[range + 1];
    const Record* const sorted = groups.sorted;
    const float *const from = point, *const other = feat;
    std::vector<float> spare(3 + channels);  // what is not kept goes here
    float *const unused = spare.data(), *const values = slots.values;
    Filling filling{groups.first_voxel[range] - 1, groups.begin[range]};
    for (int64_t first = filling.opened; first < last; first += kChunk) {
      const int64_t here = std::min(kChunk, last - first);
      place_points(sorted, first, here, slots, filling);
      open_voxels(sorted, grid, slots, filling);
      const float* const next = values + filling.cleared * slots.stride();  // where the next chunk begins to clear; a line of it for each point
      for (int64_t j = 0; j < here; ++j) {
        __builtin_prefetch(next + 16 * j, 1);
        const int64_t ahead = sorted[std::min(first + j + 32, last - 1)].point(), source = sorted[first + j].point(), place = filling.place[j];
        __builtin_prefetch(from + 3 * ahead);
        if (channels > 0) __builtin_prefetch(other + channels * ahead);
        float* out = place >= 0 ? values + place : unused;
        std::memcpy(out, from + 3 * source, 3 * sizeof(float));
        if (channels > 0) std::memcpy(out + 3, other + channels * source, static_cast<size_t>(channels) * sizeof(float));
      }
    }
    close_voxel(slots, filling, last);
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
  fill(groups, grid, data<float>(xyz), data<float>(feats), channels,
       {max_points, 3 + channels, row.empty() ? nullptr : row.data(), mutable_data<int32_t>(coords), mutable_data<int64_t>(counts),
        mutable_data<float>(voxels)});
  return {coords, voxels, counts};
}

// As the Python function checks it where there is no kernel, in less time.
void check_points(const Tensor& xyz, const Tensor& offsets) {
  SUITE3D_CHECK(xyz.dim() == 2 && xyz.size(1) == 3 && xyz.scalar_type() == ScalarType::Float, "voxelize: xyz must be (N, 3) float32");
  SUITE3D_CHECK(xyz.size(0) <= INT32_MAX, "voxelize: more points than int32 rows hold");
  SUITE3D_CHECK(offsets.is_cpu() && offsets.dim() == 1 && offsets.scalar_type() == ScalarType::Long, "voxelize: offsets must be (B + 1,) int64");
  check_offsets(offsets, xyz.size(0));
}

Three dynamic_voxelize(Tensor xyz, Tensor offsets, std::vector<double> start, std::vector<double> size, std::vector<int64_t> cells) {
  offsets = as_contiguous(offsets);
  check_points(xyz, offsets);
  xyz = as_contiguous(xyz);
  const Grid grid = make_grid(start, size, cells, offsets.size(0) - 1);
  return grid.bits <= 32 ? dynamic_with<Packed>(xyz, offsets, grid) : dynamic_with<Wide>(xyz, offsets, grid);
}

Three hard_voxelize(Tensor xyz, Tensor feats, Tensor offsets, std::vector<double> start, std::vector<double> size, std::vector<int64_t> cells,
                    int64_t max_points, int64_t max_voxels) {
  offsets = as_contiguous(offsets);
  check_points(xyz, offsets);
  SUITE3D_CHECK(feats.is_cpu() && feats.dim() == 2 && feats.size(0) == xyz.size(0) && feats.scalar_type() == ScalarType::Float,
                "voxelize: feats must be (N, C) float32");
  xyz = as_contiguous(xyz);
  feats = as_contiguous(feats);
  const Grid grid = make_grid(start, size, cells, offsets.size(0) - 1);
  return grid.bits <= 32 ? hard_with<Packed>(xyz, feats, offsets, grid, max_points, max_voxels)
                          : hard_with<Wide>(xyz, feats, offsets, grid, max_points, max_voxels);
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("dynamic_voxelize", TORCH_BOX(&suite3d::dynamic_voxelize));
  m.impl("hard_voxelize", TORCH_BOX(&suite3d::hard_voxelize));
}
