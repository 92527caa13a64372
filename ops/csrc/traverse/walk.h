// The walk of a ray through a grid of unit cells (Amanatides and Woo 1987), for CPU and CUDA.
//
// A ray is a segment between two points in cells (float32, as the voxelizer rounds them). On each axis it crosses the planes between
// the cells of its ends, one after another; the walk takes the crossings of all axes in the order of their parameter, equal ones by
// axis. Every crossing moves by one cell on one axis, and their number is known, so the walk ends exactly in the cell of the end
// point: no rounding adds up. A parameter is one subtraction and one division, so that nothing can be fused: the bits are the same
// on every machine.
#pragma once

#include "voxelize/grid.h"

namespace suite3d {

struct AxisWalk {
  double origin, extent;  // parameter of plane k: (k - origin) / extent
  int32_t cell;           // of the start, at most one cell outside the grid
  int32_t plane;          // the first one crossed
  int32_t step;           // +1 or -1; 0 if no plane is crossed
  int32_t crossings;      // of planes of the grid
  bool enters, leaves;    // the first crossing leads into the grid, the last one out of it

  SUITE3D_HOST_DEVICE double at(int32_t i) const { return (static_cast<double>(plane + step * i) - origin) / extent; }
};

// Crossing number i of an axis.
struct Crossing {
  double parameter;
  int32_t axis, i;
};

struct RayWalk {
  AxisWalk axis[3];
  bool meets;  // false: no cell of the ray is in the grid

  // Crossings of an axis before the given one.
  SUITE3D_HOST_DEVICE int32_t before(int a, const Crossing& crossing) const {
    if (a == crossing.axis) return crossing.i;
    int32_t low = 0, count = axis[a].crossings;
    while (count > 0) {
      const int32_t half = count / 2;
      const double here = axis[a].at(low + half);
      if (here < crossing.parameter || (here == crossing.parameter && a < crossing.axis)) {
        low += half + 1;
        count -= half + 1;
      } else {
        count = half;
      }
    }
    return low;
  }

  // Where the grid is entered and left: crossings taken before the first cell inside (`first`) and before the last one (`last`) on each
  // axis, and the parameters of the two. Returns the number of cells inside.
  SUITE3D_HOST_DEVICE int64_t clip(int32_t (&first)[3], int32_t (&last)[3], double* begin, double* end) const {
    if (!meets) return 0;
    Crossing enter{0, -1, 0}, leave{1, 3, 0};
    for (int a = 0; a < 3; ++a) {
      if (axis[a].enters && (enter.axis < 0 || axis[a].at(0) >= enter.parameter)) enter = {axis[a].at(0), a, 0};
      if (!axis[a].leaves) continue;
      const int32_t i = axis[a].crossings - 1;
      if (leave.axis == 3 || axis[a].at(i) < leave.parameter) leave = {axis[a].at(i), a, i};
    }
    int64_t cells = 1;
    for (int a = 0; a < 3; ++a) {
      first[a] = enter.axis < 0 ? 0 : before(a, enter) + (a == enter.axis);
      last[a] = leave.axis == 3 ? axis[a].crossings : before(a, leave);
      if (last[a] < first[a]) return 0;  // left on one axis before it is entered on another
      cells += last[a] - first[a];
    }
    *begin = enter.parameter, *end = leave.parameter;
    return cells;
  }
};

// Cells of a walk inside the grid, with or without the one of the end point.
SUITE3D_HOST_DEVICE inline int64_t count_cells(const RayWalk& walk, bool include_end) {
  int32_t first[3], last[3];
  double begin, end;
  const int64_t cells = walk.clip(first, last, &begin, &end);
  const bool ends_outside = walk.axis[0].leaves || walk.axis[1].leaves || walk.axis[2].leaves;
  return cells > 0 && !include_end && !ends_outside ? cells - 1 : cells;
}

// start and end: three coordinates each.
SUITE3D_HOST_DEVICE inline RayWalk make_walk(const Grid& grid, const float* start, const float* end) {
  RayWalk walk;
  walk.meets = true;
  for (int a = 0; a < 3; ++a) {
    AxisWalk& axis = walk.axis[a];
    const float from = (start[a] - grid.start[a]) / grid.size[a], to = (end[a] - grid.start[a]) / grid.size[a];
    const float limit = static_cast<float>(grid.cells[a]);
    axis = {from, static_cast<double>(to) - from, 0, 0, 0, 0, false, false};
    // false too for what is not finite
    if (!((from >= 0 || to >= 0) && (from < limit || to < limit) && from - from == 0 && to - to == 0)) {
      walk.meets = false;
      continue;
    }
    const int32_t cells = static_cast<int32_t>(grid.cells[a]);
    const auto clamped = [&](float x) { return x < 0 ? -1 : x >= limit ? cells : static_cast<int32_t>(x); };
    const int32_t first = clamped(from), last = clamped(to);
    axis.cell = first;
    axis.step = last > first ? 1 : last < first ? -1 : 0;
    axis.plane = last < first ? first : first + 1;
    axis.crossings = last < first ? first - last : last - first;
    axis.enters = first < 0 || first == cells;
    axis.leaves = last < 0 || last == cells;
  }
  return walk;
}

// The crossings of one axis one after another, with the parameter of the one after next at hand: its division is done by the time that
// it is needed.
struct AxisCursor {
  double next, after;  // 2, beyond every parameter, where there is none
  int32_t cell, i, last;

  SUITE3D_HOST_DEVICE void begin(const AxisWalk& axis, int32_t first, int32_t end) {
    cell = axis.cell + axis.step * first, i = first, last = end;
    next = i < last ? axis.at(i) : 2;
    after = i + 1 < last ? axis.at(i + 1) : 2;
  }
  SUITE3D_HOST_DEVICE double take(const AxisWalk& axis) {
    const double here = next;
    cell += axis.step, next = after, ++i;
    after = i + 1 < last ? axis.at(i + 1) : 2;
    return here;
  }
};

// Write the first `limit` cells of a walk, which it has. coords: [batch, z, y, x] each; spans: parameters of entry and exit.
SUITE3D_HOST_DEVICE inline void write_walk(const RayWalk& walk, int32_t batch, int64_t limit, int32_t* coords, float* spans) {
  int32_t first[3], last[3];
  double begin, end;
  if (limit <= 0 || walk.clip(first, last, &begin, &end) == 0) return;
  AxisCursor x, y, z;
  x.begin(walk.axis[0], first[0], last[0]), y.begin(walk.axis[1], first[1], last[1]), z.begin(walk.axis[2], first[2], last[2]);
  for (int64_t i = 0; i < limit; ++i, coords += 4, spans += 2) {
    coords[0] = batch, coords[1] = z.cell, coords[2] = y.cell, coords[3] = x.cell;
    spans[0] = static_cast<float>(begin);
    if (x.next <= y.next && x.next <= z.next)
      begin = x.take(walk.axis[0]);
    else if (y.next <= z.next)
      begin = y.take(walk.axis[1]);
    else
      begin = z.take(walk.axis[2]);
    spans[1] = static_cast<float>(begin < 2 ? begin : end);
  }
}

}  // namespace suite3d
