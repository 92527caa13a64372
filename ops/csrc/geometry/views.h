// What the builders of a tree hand to the kernels that search it: plain pointers, so that no code is shared between instruction sets.
#pragma once

#include <cstdint>

namespace suite3d {

constexpr int FANOUT = 16;  // points of a leaf and children of a node
constexpr int MAX_LEVELS = 8;  // 16^8 > 2^31 points

// Points of one cloud along a space-filling curve; leaf i holds points [16 i, 16 i + 16), node i of level l + 1 the nodes
// [16 i, 16 i + 16) of level l. Boxes are padded to whole groups of 16 with boxes that no finite distance reaches.
struct TreeView {
  const float* xyz[3];
  const int32_t* row;  // global row of each point
  int64_t points;
  int levels;  // 0: no tree, the points are scanned in row order
  int64_t nodes[MAX_LEVELS];
  const float* lower[MAX_LEVELS][3];
  const float* upper[MAX_LEVELS][3];
};

// Queries of one cloud, padded to whole packs of 16; close ones lie close together where there is a tree.
struct QueryView {
  const float* xyz[3];
  const int32_t* row;
  int64_t count;
};

// One piece of work: the packs [first, last) of queries against a tree.
struct SearchJob {
  const TreeView* tree;
  const QueryView* queries;
  int64_t first, last;
  bool same;  // the queries are the points: pack i is leaf i
};

}  // namespace suite3d
