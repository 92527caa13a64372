// The first k rows inside a ball, for the packs of a job; one copy for each instruction set.
#pragma once

#include "geometry/views.h"

namespace suite3d {

// index is (Q, k), count (Q,), rows by QueryView::row; lists is scratch of 16 k doubles.
using BallKernel = void(const SearchJob& job, float radius2, int64_t k, double* lists, int64_t* index, int64_t* count);

namespace any { BallKernel ball_job; }
namespace avx2 { BallKernel ball_job; }
namespace avx512 { BallKernel ball_job; }

}  // namespace suite3d
