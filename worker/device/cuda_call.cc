#include "worker/device/cuda_call.h"

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"

namespace shardwright {

absl::Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();
  return Error(absl::StatusCode::kDataLoss, "DEVICE_FAILED",
               absl::StrCat(what, ": ", cudaGetErrorName(error), ": ",
                            cudaGetErrorString(error)));
}

CurrentDevice::CurrentDevice(int ordinal) {
  int current = -1;
  if (cudaGetDevice(&current) == cudaSuccess && current == ordinal) return;
  before_ = current;
  cudaSetDevice(ordinal);  // What comes next reports a failure.
}

CurrentDevice::~CurrentDevice() {
  if (before_ >= 0) cudaSetDevice(before_);
}

}  // namespace shardwright
