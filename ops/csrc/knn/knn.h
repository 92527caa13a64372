// k nearest neighbours of the packs of a job; one copy for each instruction set.
#pragma once

#include "geometry/views.h"

namespace suite3d {

// index and distance2 are (Q, k), rows by QueryView::row; lists is scratch of 16 k doubles.
using KnnKernel = void(const SearchJob& job, int64_t k, double* lists, int64_t* index, float* distance2);

namespace any { KnnKernel knn_job; }
namespace avx2 { KnnKernel knn_job; }
namespace avx512 { KnnKernel knn_job; }

}  // namespace suite3d
