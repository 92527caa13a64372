#include "ball_query/ball_query_kernel.h"
