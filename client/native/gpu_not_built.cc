// The functions of shardwright_gpu.h in a library that was built without CUDA.

#include "client/native/call.h"
#include "client/native/shardwright_gpu.h"
#include "proto/status/error.h"

namespace {

sw_code NotBuilt() {
  return shardwright::Record(
      shardwright::Error(absl::StatusCode::kUnimplemented, "GPU_NOT_BUILT",
                         "this libshardwright.so was built without CUDA"));
}

}  // namespace

sw_code sw_gpu_open(int32_t, sw_gpu**) { return NotBuilt(); }

void sw_gpu_destroy(sw_gpu*) {}

sw_code sw_gpu_describe(const sw_gpu*, char**) { return NotBuilt(); }

sw_code sw_gpu_prepare(sw_gpu*, const sw_plan*, sw_table_id, int32_t) {
  return NotBuilt();
}

sw_code sw_gpu_slot_create(sw_gpu*, const sw_slot_bounds*, int32_t,
                           sw_gpu_slot**) {
  return NotBuilt();
}

void sw_gpu_slot_destroy(sw_gpu_slot*) {}

sw_code sw_gpu_slot_write(sw_gpu_slot*, const sw_plan*, sw_table_id, void*) {
  return NotBuilt();
}

sw_code sw_gpu_run(sw_gpu*, const sw_gpu_operation*, int64_t, void*) {
  return NotBuilt();
}
