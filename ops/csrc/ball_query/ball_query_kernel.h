#pragma once

#include "ball_query/ball_query.h"
#include "geometry/search.h"

namespace {

struct BallVisitor {
  const Pack& pack;
  const TreeView& tree;
  KeyLists lists;  // distance 0 for all that are inside, so that keys order by row; infinity, beyond an empty slot, for the others
  float radius2;
  F16 limit = set1(radius2);
  I16 last_row = set1(NO_ROW);  // the k-th row so far

  __attribute__((always_inline)) float reach() const { return radius2; }

  __attribute__((always_inline)) void scan(int64_t first, int64_t last) {
    for (int64_t point = first; point < last; ++point) {
      const M16 inside = distance_to(pack, tree, point) < limit;
      if (!bits(inside) || !bits(inside & (set1(tree.row[point]) < last_row))) continue;
      lists.insert(make_keys(select(inside, set1(0.f), set1(__builtin_inff())), tree.row[point], KEY_OFFSET));
      last_row = key_rows(lists.last());
    }
  }
};

}  // namespace

namespace suite3d {
namespace SUITE3D_LEVEL {

void ball_job(const SearchJob& job, float radius2, int64_t k, double* lists, int64_t* index, int64_t* count) {
  const KeyLists found{lists, k};
  for (int64_t at = job.first; at < job.last; ++at) {
    const Pack pack = load_pack(job, at);
    found.clear();
    BallVisitor visitor{pack, *job.tree, found, radius2};
    walk(pack, *job.tree, {0, 0}, visitor);
    for (int lane = 0; lane < pack.lanes; ++lane) {
      const int64_t row = job.queries->row[at * FANOUT + lane];
      int64_t used = 0;
      for (; used < k && key_distance(lists[16 * used + lane]) == 0.f; ++used) index[row * k + used] = key_row(lists[16 * used + lane]);
      count[row] = used;
    }
  }
}

}  // namespace SUITE3D_LEVEL
}  // namespace suite3d
