#include "voxelize/cells_kernel.h"
