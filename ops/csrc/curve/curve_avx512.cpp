#include "curve/curve_kernel.h"
