#include "points_in_boxes/points_in_boxes_kernel.h"
