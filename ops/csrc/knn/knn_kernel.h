#pragma once

#include "geometry/search.h"
#include "knn/knn.h"

namespace {

struct KnnVisitor {
  const Pack& pack;
  const TreeView& tree;
  KeyLists lists;
  F16 bound = set1(FLOAT_MAX);  // distance of the k-th neighbour so far
  float furthest = FLOAT_MAX;

  __attribute__((always_inline)) float reach() const { return furthest; }

  __attribute__((always_inline)) void scan(int64_t first, int64_t last) {
    for (int64_t point = first; point < last; ++point) {
      const F16 distance = distance_to(pack, tree, point);
      if (!bits(distance <= bound)) continue;
      lists.insert(make_keys(distance, tree.row[point], KEY_OFFSET));
      bound = key_floats(lists.last(), KEY_OFFSET);
    }
    furthest = reduce_max(bound);
  }
};

}  // namespace

namespace suite3d {
namespace SUITE3D_LEVEL {

void knn_job(const SearchJob& job, int64_t k, double* lists, int64_t* index, float* distance2) {
  const KeyLists found{lists, k};
  for (int64_t at = job.first; at < job.last; ++at) {
    const Pack pack = load_pack(job, at);
    found.clear();
    KnnVisitor visitor{pack, *job.tree, found};
    walk(pack, *job.tree, first_leaves(pack, job, at, k), visitor);
    for (int lane = 0; lane < pack.lanes; ++lane) {
      const int64_t out = job.queries->row[at * FANOUT + lane] * k;
      for (int64_t i = 0; i < k; ++i) {
        const double key = lists[16 * i + lane];
        const bool any = key_row(key) != NO_ROW;
        index[out + i] = any ? key_row(key) : -1;
        distance2[out + i] = any ? key_distance(key) : __builtin_inff();
      }
    }
  }
}

}  // namespace SUITE3D_LEVEL
}  // namespace suite3d
