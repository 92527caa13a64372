#include "fps/fps_kernel.h"
