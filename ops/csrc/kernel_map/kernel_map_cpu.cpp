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
  const uint64_t cells = static_cast<uint64_t>(batch_size) * shape[0] * shape[1] * shape[2];
  SUITE3D_CHECK(batch_size > 0 && cells < (uint64_t{1} << 62), "kernel map: the grid needs keys beyond int64");
  std::atomic<bool> good{true};
  parallel_for(count, 16384, [&](int64_t first, int64_t last) {
    const auto key = [&](const int32_t* c) { return ((c[0] * shape[0] + c[1]) * shape[1] + c[2]) * shape[2] + c[3]; };
    int64_t before = first > 0 ? key(coords + 4 * (first - 1)) : -1;
    bool fine = true;
    for (int64_t i = first; i < last; ++i) {
      const int32_t* c = coords + 4 * i;
      fine &= static_cast<uint64_t>(c[0]) < static_cast<uint64_t>(batch_size) && static_cast<uint64_t>(c[1]) < static_cast<uint64_t>(shape[0]) &&
              static_cast<uint64_t>(c[2]) < static_cast<uint64_t>(shape[1]) && static_cast<uint64_t>(c[3]) < static_cast<uint64_t>(shape[2]);
      const int64_t now = key(c);
      fine &= now > before;
      before = now;
    }
    if (!fine) good = false;
  });
  SUITE3D_CHECK(good, "kernel map: voxels are outside the grid, unsorted or repeated");
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
  const int32_t* before = nullptr;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* c = coord + 4 * i;
    if (before && before[0] == c[0] && before[1] == c[1] && before[2] == c[2]) continue;
    lines.key.push_back((c[0] * shape[0] + c[1]) * shape[1] + c[2]);
    lines.start.push_back(i);
    before = c;
  }
  lines.start.push_back(count);
  return lines;
}

struct Geometry {
  Ints shape, out, kernel, stride, padding;
  int64_t batch_size, volume;
};

// Output cells [first, last] along one axis whose window holds the input cell.
struct Window {
  int32_t first, last;
};

Window window_of(int64_t cell, int axis, const Geometry& g) {
  const int64_t padded = cell + g.padding[axis];
  const int64_t first = std::max<int64_t>(0, ceil_div(padded - g.kernel[axis] + 1, g.stride[axis]));
  return {static_cast<int32_t>(first), static_cast<int32_t>(std::min(g.out[axis] - 1, padded / g.stride[axis]))};
}

// Output lines that any input line feeds, increasing.
std::vector<int64_t> output_lines(const Lines& lines, const Geometry& g) {
  const int64_t all = g.batch_size * g.out[0] * g.out[1];
  const bool few = all <= 64 * static_cast<int64_t>(lines.key.size()) + 4096;  // then mark them in a table, otherwise sort
  std::vector<char> marked(few ? all : 0, 0);
  std::vector<int64_t> found;
  for (const int64_t key : lines.key) {
    const int64_t plane = key / g.shape[1], batch = plane / g.shape[0];
    const Window z = window_of(plane - batch * g.shape[0], 0, g), y = window_of(key - plane * g.shape[1], 1, g);
    for (int64_t oz = z.first; oz <= z.last; ++oz)
      for (int64_t oy = y.first; oy <= y.last; ++oy) {
        const int64_t line = (batch * g.out[0] + oz) * g.out[1] + oy;
        if (few) {
          marked[line] = 1;
        } else {
          found.push_back(line);
        }
      }
  }
  if (few) {
    for (int64_t line = 0; line < all; ++line)
      if (marked[line]) found.push_back(line);
    return found;
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

// What the lines of one piece of the output hold.
struct Piece {
  struct Pair {
    int32_t offset, input, output;
  };
  std::vector<Pair> pairs;       // outputs numbered within the piece
  std::vector<int32_t> x;        // of each output
  std::vector<int64_t> line_end;  // outputs up to the end of each line
};

// Merge, for each output line, the input lines under it: the next output is the smallest whose window holds a voxel of any.
void merge_lines(const int32_t* coord, const Window* windows, const Lines& lines, const Geometry& g, const int64_t* first, const int64_t* last,
                 Piece& piece) {
  struct Source {
    int64_t at, end, offset;
    int64_t next;  // smallest output of voxel `at` that was not emitted yet
  };
  std::vector<Source> sources(g.kernel[0] * g.kernel[1]);
  std::vector<size_t> cursor(g.kernel[0], SIZE_MAX);  // the input line reached at each kernel plane: they only move forward
  const int64_t stride = g.stride[2], padding = g.padding[2], width = g.kernel[2];
  for (const int64_t* line = first; line < last; ++line) {
    const int64_t plane = *line / g.out[1], batch = plane / g.out[0];
    const int64_t z0 = (plane - batch * g.out[0]) * g.stride[0] - g.padding[0], y0 = (*line - plane * g.out[1]) * g.stride[1] - g.padding[1];
    int used = 0;
    for (int64_t kz = 0; kz < g.kernel[0]; ++kz) {
      if (z0 + kz < 0 || z0 + kz >= g.shape[0]) continue;
      const int64_t base = (batch * g.shape[0] + z0 + kz) * g.shape[1];
      const int64_t low = base + std::max<int64_t>(0, y0), high = base + std::min(g.shape[1], y0 + g.kernel[1]);
      size_t& at = cursor[kz];
      if (at == SIZE_MAX) at = std::lower_bound(lines.key.begin(), lines.key.end(), low) - lines.key.begin();
      while (at < lines.key.size() && lines.key[at] < low) ++at;
      for (size_t l = at; l < lines.key.size() && lines.key[l] < high; ++l) {
        const int64_t begin = lines.start[l];
        sources[used++] = {begin, lines.start[l + 1], (kz * g.kernel[1] + (lines.key[l] - base - y0)) * width, windows[begin].first};
      }
    }
    for (int64_t emitted = 0;;) {  // outputs below `emitted` are done
      int64_t next = INT64_MAX;
      for (int s = 0; s < used; ++s) {
        Source& source = sources[s];
        while (source.at < source.end) {
          source.next = std::max<int64_t>(windows[source.at].first, emitted);
          if (source.next <= windows[source.at].last) break;
          ++source.at;
        }
        if (source.at < source.end) next = std::min(next, source.next);
      }
      if (next == INT64_MAX) break;
      const int64_t begin = next * stride - padding;
      const int32_t output = static_cast<int32_t>(piece.x.size());
      for (int s = 0; s < used; ++s) {
        if (sources[s].at == sources[s].end || sources[s].next != next) continue;
        for (int64_t at = sources[s].at; at < sources[s].end && coord[4 * at + 3] < begin + width; ++at)
          piece.pairs.push_back({static_cast<int32_t>(sources[s].offset + coord[4 * at + 3] - begin), static_cast<int32_t>(at), output});
      }
      piece.x.push_back(static_cast<int32_t>(next));
      emitted = next + 1;
    }
    piece.line_end.push_back(static_cast<int64_t>(piece.x.size()));
  }
}

std::tuple<Tensor, Tensor, Tensor> strided_map(Tensor coords, int64_t batch_size, Ints shape, Ints kernel, Ints stride, Ints padding) {
  coords = as_contiguous(coords);
  const int64_t count = coords.size(0);
  const int32_t* coord = data<int32_t>(coords);
  check_coords(coord, count, batch_size, shape);
  Geometry g{shape, {}, kernel, stride, padding, batch_size, kernel[0] * kernel[1] * kernel[2]};
  for (int axis = 0; axis < 3; ++axis) g.out.push_back((shape[axis] + 2 * padding[axis] - kernel[axis]) / stride[axis] + 1);
  const Lines lines = lines_of(coord, count, shape);
  const std::vector<int64_t> out_lines = output_lines(lines, g);
  Scratch<Window> windows(count);
  parallel_for(count, 16384, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) windows[i] = window_of(coord[4 * i + 3], 2, g);
  });
  const int64_t line_count = static_cast<int64_t>(out_lines.size());
  const int64_t parts = std::max<int64_t>(1, std::min(4 * num_threads(), line_count / 64));
  std::vector<Piece> pieces(parts);
  const int64_t per_part = (line_count + parts - 1) / parts;
  const auto begin_of = [&](int64_t part) { return std::min(line_count, part * per_part); };
  parallel_tasks(parts, [&](int64_t part) {
    merge_lines(coord, windows.get(), lines, g, out_lines.data() + begin_of(part), out_lines.data() + begin_of(part + 1), pieces[part]);
  });
  std::vector<int64_t> first_out(parts + 1, 0);
  for (int64_t part = 0; part < parts; ++part) first_out[part + 1] = first_out[part] + static_cast<int64_t>(pieces[part].x.size());
  const int64_t outputs = first_out[parts];
  SUITE3D_CHECK(outputs <= INT32_MAX, "kernel map: ", outputs, " output voxels, more than int32 rows hold");
  Tensor out_coords = empty({outputs, 4}, ScalarType::Int, coords);
  Tensor forward = empty({g.volume, outputs}, ScalarType::Int, coords), backward = empty({g.volume, count}, ScalarType::Int, coords);
  int32_t *out = mutable_data<int32_t>(out_coords), *to_input = mutable_data<int32_t>(forward), *to_output = mutable_data<int32_t>(backward);
  parallel_for(g.volume, std::max<int64_t>(1, 131072 / (count + outputs + 1)), [&](int64_t first, int64_t last) {
    std::fill(to_input + first * outputs, to_input + last * outputs, -1);
    std::fill(to_output + first * count, to_output + last * count, -1);
  });
  parallel_tasks(parts, [&](int64_t part) {
    const Piece& piece = pieces[part];
    const int64_t base = first_out[part];
    int64_t row = 0;
    for (size_t l = 0; l < piece.line_end.size(); ++l) {
      const int64_t line = out_lines[begin_of(part) + l], plane = line / g.out[1], batch = plane / g.out[0];
      for (; row < piece.line_end[l]; ++row) {
        int32_t* c = out + 4 * (base + row);
        c[0] = static_cast<int32_t>(batch);
        c[1] = static_cast<int32_t>(plane - batch * g.out[0]);
        c[2] = static_cast<int32_t>(line - plane * g.out[1]);
        c[3] = piece.x[row];
      }
    }
    for (const Piece::Pair& pair : piece.pairs) {
      to_input[pair.offset * outputs + base + pair.output] = pair.input;
      to_output[pair.offset * count + pair.input] = static_cast<int32_t>(base + pair.output);
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
