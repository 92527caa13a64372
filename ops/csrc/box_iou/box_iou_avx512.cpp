#include "box_iou/box_iou_kernel.h"
