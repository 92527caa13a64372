// Nearest point for the packs of a job; one copy for each instruction set.
#pragma once

#include "geometry/views.h"

namespace suite3d {

// index and distance2 are (Q,), rows by QueryView::row.
using NearestKernel = void(const SearchJob& job, int64_t* index, float* distance2);

namespace any { NearestKernel nearest_job; }
namespace avx2 { NearestKernel nearest_job; }
namespace avx512 { NearestKernel nearest_job; }

}  // namespace suite3d
