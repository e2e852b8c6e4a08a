// Includes what its target does not depend on.

#include "proto/plan/grid.h"
