#include "worker/exec/bridge.h"
