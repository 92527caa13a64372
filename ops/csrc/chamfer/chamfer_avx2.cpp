#include "chamfer/chamfer_kernel.h"
