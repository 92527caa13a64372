// Kernel maps of sorted voxels, by merging rows of voxels: no hash table, every memory access moves forward.
#include "common.h"

namespace suite3d {
namespace {

using Ints = std::vector<int64_t>;

inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
inline int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

// Voxels outside the grid, unsorted or repeated would make the merge read or write anywhere.
void check_coords(const int32_t* coords, int64_t count, int64_t batch_size, const Ints& shape) {
  SUITE3D_CHECK(count <= INT32_MAX, "kernel map: ", count, " voxels, more than int32 rows hold");
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* c = coords + 4 * i;
    const bool inside = c[0] >= 0 && c[0] < batch_size && c[1] >= 0 && c[1] < shape[0] && c[2] >= 0 && c[2] < shape[1] && c[3] >= 0 && c[3] < shape[2];
    SUITE3D_CHECK(inside, "kernel map: voxel ", i, " at [", c[0], ", ", c[1], ", ", c[2], ", ", c[3], "] is outside the grid");
    SUITE3D_CHECK(i == 0 || std::lexicographical_compare(c - 4, c, c, c + 4), "kernel map: voxel ", i, " is not after the one before it");
  }
}

// Submanifold: with cells numbered over a padded grid, the neighbour at one offset of voxel i has key(i) + constant. The keys
// are sorted, so one pointer for each kernel row only moves forward; the half of the offsets before the centre is the mirror.
Tensor submanifold_map(Tensor coords, int64_t batch_size, Ints shape, Ints kernel) {
  coords = as_contiguous(coords);
  const int64_t count = coords.size(0), volume = kernel[0] * kernel[1] * kernel[2];
  const int32_t* coord = data<int32_t>(coords);
  check_coords(coord, count, batch_size, shape);
  Tensor table = empty({volume, count}, ScalarType::Int, coords);
  int32_t* map = mutable_data<int32_t>(table);
  const int64_t half_z = kernel[0] / 2, half_y = kernel[1] / 2, half_x = kernel[2] / 2;
  const int64_t step_y = shape[2] + 2 * half_x, step_z = step_y * (shape[1] + 2 * half_y), step_batch = step_z * (shape[0] + 2 * half_z);
  SUITE3D_CHECK(step_batch < INT64_MAX / 4 / std::max<int64_t>(batch_size, 1), "kernel map: the grid needs keys beyond int64");

  struct Row {
    int64_t shift;   // key distance to the leftmost neighbour of the row
    int64_t offset;  // its kernel offset
    int64_t width;   // neighbours in the row
  };
  std::vector<Row> rows;
  if (half_x > 0) rows.push_back({1, (half_z * kernel[1] + half_y) * kernel[2] + half_x + 1, half_x});
  for (int64_t dz = 0; dz <= half_z; ++dz)
    for (int64_t dy = dz == 0 ? 1 : -half_y; dy <= half_y; ++dy)
      rows.push_back({dz * step_z + dy * step_y - half_x, ((half_z + dz) * kernel[1] + half_y + dy) * kernel[2], kernel[2]});

  Scratch<int64_t> key(count + 1);
  parallel_for(count, 16384, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int32_t* c = coord + 4 * i;
      key[i] = c[0] * step_batch + (c[1] + half_z) * step_z + (c[2] + half_y) * step_y + c[3] + half_x;
    }
  });
  key[count] = INT64_MAX;
  const int64_t centre = volume / 2;
  parallel_for(volume, std::max<int64_t>(1, 131072 / std::max<int64_t>(count, 1)), [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      int32_t* out = map + k * count;
      if (k != centre) {
        std::fill(out, out + count, -1);
      } else {
        for (int64_t i = 0; i < count; ++i) out[i] = static_cast<int32_t>(i);
      }
    }
  });
  const int64_t* keys = key.get();
  parallel_for(count, 4096, [&](int64_t first, int64_t last) {
    for (const Row& row : rows) {
      int64_t at = std::lower_bound(keys, keys + count, keys[first] + row.shift) - keys;
      int32_t* forward = map + row.offset * count;
      int32_t* mirror = map + (volume - 1 - row.offset) * count;
      for (int64_t i = first; i < last; ++i) {
        const int64_t begin = keys[i] + row.shift;
        while (keys[at] < begin) ++at;
        for (int64_t q = at; keys[q] - begin < row.width; ++q) {
          const int64_t k = (keys[q] - begin) * count;
          forward[k + i] = static_cast<int32_t>(q);
          mirror[q - k] = static_cast<int32_t>(i);
        }
      }
    }
  });
  return table;
}

// Runs of voxels that share batch, z and y.
struct Lines {
  std::vector<int64_t> key;    // number of the line, increasing
  std::vector<int64_t> start;  // first voxel of each line; one more entry at the end
};

Lines lines_of(const int32_t* coord, int64_t count, const Ints& shape) {
  Lines lines;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* c = coord + 4 * i;
    const int64_t key = (c[0] * shape[0] + c[1]) * shape[1] + c[2];
    if (!lines.key.empty() && lines.key.back() == key) continue;
    lines.key.push_back(key);
    lines.start.push_back(i);
  }
  lines.start.push_back(count);
  return lines;
}

struct Geometry {
  Ints shape, out, kernel, stride, padding;
  int64_t volume;
};

// Output lines that any input line feeds, increasing.
std::vector<int64_t> output_lines(const Lines& lines, const Geometry& g) {
  std::vector<int64_t> found;
  for (const int64_t key : lines.key) {
    const int64_t y = key % g.shape[1], z = key / g.shape[1] % g.shape[0], batch = key / g.shape[1] / g.shape[0];
    const int64_t z0 = std::max<int64_t>(0, ceil_div(z + g.padding[0] - g.kernel[0] + 1, g.stride[0]));
    const int64_t y0 = std::max<int64_t>(0, ceil_div(y + g.padding[1] - g.kernel[1] + 1, g.stride[1]));
    const int64_t z1 = std::min(g.out[0] - 1, (z + g.padding[0]) / g.stride[0]), y1 = std::min(g.out[1] - 1, (y + g.padding[1]) / g.stride[1]);
    for (int64_t oz = z0; oz <= z1; ++oz)
      for (int64_t oy = y0; oy <= y1; ++oy) found.push_back((batch * g.out[0] + oz) * g.out[1] + oy);
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

// Merge the input lines under one output line: visit(ox) once for each active output, pair(k, input) for its inputs after it.
template <class Visit, class Pair>
void merge_line(const int32_t* coord, const Lines& lines, const Geometry& g, int64_t line, const Visit& visit, const Pair& pair) {
  struct Source {
    int64_t at, end, offset;
  };
  Source sources[64];
  std::vector<Source> many;
  const int64_t oy = line % g.out[1], oz = line / g.out[1] % g.out[0], batch = line / g.out[1] / g.out[0];
  if (g.kernel[0] * g.kernel[1] > 64) many.resize(g.kernel[0] * g.kernel[1]);
  Source* source = many.empty() ? sources : many.data();
  int used = 0;
  for (int64_t kz = 0; kz < g.kernel[0]; ++kz) {
    const int64_t z = oz * g.stride[0] - g.padding[0] + kz, y = oy * g.stride[1] - g.padding[1];
    if (z < 0 || z >= g.shape[0]) continue;
    const int64_t base = (batch * g.shape[0] + z) * g.shape[1], low = std::max<int64_t>(0, y), high = std::min(g.shape[1], y + g.kernel[1]);
    auto it = std::lower_bound(lines.key.begin(), lines.key.end(), base + low);
    for (; it != lines.key.end() && *it < base + high; ++it) {
      const int64_t index = it - lines.key.begin();
      source[used++] = {lines.start[index], lines.start[index + 1], (kz * g.kernel[1] + (*it - base - y)) * g.kernel[2]};
    }
  }
  for (int64_t ox = 0;;) {  // next output: the smallest whose window holds the next voxel of some line
    int64_t next = g.out[2];
    for (int s = 0; s < used; ++s) {
      for (; source[s].at < source[s].end; ++source[s].at) {
        const int64_t x = coord[4 * source[s].at + 3] + g.padding[2];
        const int64_t candidate = std::max(ox, ceil_div(x - g.kernel[2] + 1, g.stride[2]));
        if (candidate * g.stride[2] > x) continue;  // before this output, or between two windows
        next = std::min(next, candidate);
        break;
      }
    }
    if (next >= g.out[2]) return;
    visit(next);
    const int64_t window = next * g.stride[2] - g.padding[2];
    for (int s = 0; s < used; ++s)
      for (int64_t at = source[s].at; at < source[s].end && coord[4 * at + 3] < window + g.kernel[2]; ++at)
        pair(source[s].offset + coord[4 * at + 3] - window, at);
    ox = next + 1;
  }
}

std::tuple<Tensor, Tensor, Tensor> strided_map(Tensor coords, int64_t batch_size, Ints shape, Ints kernel, Ints stride, Ints padding) {
  coords = as_contiguous(coords);
  const int64_t count = coords.size(0);
  const int32_t* coord = data<int32_t>(coords);
  check_coords(coord, count, batch_size, shape);
  Geometry g{shape, {}, kernel, stride, padding, kernel[0] * kernel[1] * kernel[2]};
  for (int axis = 0; axis < 3; ++axis) g.out.push_back((shape[axis] + 2 * padding[axis] - kernel[axis]) / stride[axis] + 1);
  const Lines lines = lines_of(coord, count, shape);
  const std::vector<int64_t> out_lines = output_lines(lines, g);
  const int64_t line_count = static_cast<int64_t>(out_lines.size());
  std::vector<int64_t> first_out(line_count + 1, 0);
  parallel_for(line_count, 256, [&](int64_t first, int64_t last) {
    for (int64_t l = first; l < last; ++l) {
      int64_t outputs = 0;
      merge_line(coord, lines, g, out_lines[l], [&](int64_t) { ++outputs; }, [](int64_t, int64_t) {});
      first_out[l + 1] = outputs;
    }
  });
  for (int64_t l = 0; l < line_count; ++l) first_out[l + 1] += first_out[l];
  const int64_t outputs = first_out[line_count];
  SUITE3D_CHECK(outputs <= INT32_MAX, "kernel map: ", outputs, " output voxels, more than int32 rows hold");
  Tensor out_coords = empty({outputs, 4}, ScalarType::Int, coords);
  Tensor forward = empty({g.volume, outputs}, ScalarType::Int, coords), backward = empty({g.volume, count}, ScalarType::Int, coords);
  int32_t *out = mutable_data<int32_t>(out_coords), *to_input = mutable_data<int32_t>(forward), *to_output = mutable_data<int32_t>(backward);
  parallel_for(g.volume, 2, [&](int64_t first, int64_t last) {
    std::fill(to_input + first * outputs, to_input + last * outputs, -1);
    std::fill(to_output + first * count, to_output + last * count, -1);
  });
  parallel_for(line_count, 256, [&](int64_t first, int64_t last) {
    for (int64_t l = first; l < last; ++l) {
      const int64_t line = out_lines[l];
      int64_t row = first_out[l] - 1;
      merge_line(
          coord, lines, g, line,
          [&](int64_t ox) {
            int32_t* c = out + 4 * ++row;
            c[0] = static_cast<int32_t>(line / g.out[1] / g.out[0]);
            c[1] = static_cast<int32_t>(line / g.out[1] % g.out[0]);
            c[2] = static_cast<int32_t>(line % g.out[1]);
            c[3] = static_cast<int32_t>(ox);
          },
          [&](int64_t k, int64_t input) {
            to_input[k * outputs + row] = static_cast<int32_t>(input);
            to_output[k * count + input] = static_cast<int32_t>(row);
          });
    }
  });
  return {out_coords, forward, backward};
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) {
  m.impl("submanifold_map", TORCH_BOX(&suite3d::submanifold_map));
  m.impl("strided_map", TORCH_BOX(&suite3d::strided_map));
}
