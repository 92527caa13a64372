#pragma once

#include "chamfer/chamfer.h"
#include "geometry/search.h"

namespace {

struct NearestVisitor {
  const Pack& pack;
  const TreeView& tree;
  F16 best = set1(FLOAT_MAX);
  I16 row = set1(NO_ROW);
  float furthest = FLOAT_MAX;

  __attribute__((always_inline)) float reach() const { return furthest; }

  __attribute__((always_inline)) void scan(int64_t first, int64_t last) {
    for (int64_t point = first; point < last; ++point) {
      const F16 distance = distance_to(pack, tree, point);
      const M16 near = distance <= best;
      if (!bits(near)) continue;
      const I16 candidate = set1(tree.row[point]);
      const M16 better = near & ((distance < best) | (candidate < row));  // equal distances: the lower row
      best = select(better, distance, best);
      row = select(better, candidate, row);
    }
    furthest = reduce_max(best);
  }
};

}  // namespace

namespace suite3d {
namespace SUITE3D_LEVEL {

void nearest_job(const SearchJob& job, int64_t* index, float* distance2) {
  for (int64_t at = job.first; at < job.last; ++at) {
    const Pack pack = load_pack(job, at);
    NearestVisitor visitor{pack, *job.tree};
    walk(pack, *job.tree, first_leaves(pack, job, at, 1), visitor);
    float distance[16];
    int32_t row[16];
    store(distance, visitor.best);
    store(row, visitor.row);
    for (int lane = 0; lane < pack.lanes; ++lane) {
      if (row[lane] == NO_ROW) continue;
      const int64_t query = job.queries->row[at * FANOUT + lane];
      index[query] = row[lane];
      distance2[query] = distance[lane];
    }
  }
}

}  // namespace SUITE3D_LEVEL
}  // namespace suite3d
