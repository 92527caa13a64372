#include "knn/knn_kernel.h"
