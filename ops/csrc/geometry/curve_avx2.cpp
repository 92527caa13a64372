#include "geometry/curve_kernel.h"
