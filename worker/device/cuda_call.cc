#include "worker/device/cuda_call.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "cuda.h"
#include "proto/status/error.h"

namespace shardwright {

absl::Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();
  return Error(absl::StatusCode::kDataLoss, "DEVICE_FAILED",
               absl::StrCat(what, ": ", cudaGetErrorName(error), ": ",
                            cudaGetErrorString(error)));
}

std::string GpuUuidText(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (int i = 0; i < 16; ++i) {
    char digits[4];
    std::snprintf(digits, sizeof(digits), "%02x",
                  static_cast<unsigned char>(uuid.bytes[i]));
    const bool group = i == 0 || i == 4 || i == 6 || i == 8 || i == 10;
    absl::StrAppend(&text, group ? "-" : "", digits);
  }
  return text;
}

namespace {

// Whether the process has a context on a GPU. Asks the driver, which makes
// none.
bool IsInUse(int ordinal) {
  using Function = CUresult (*)(CUdevice, unsigned int*, int*);
  constexpr unsigned int kCudaVersion = 12000;
  static const Function get_state = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error = cudaGetDriverEntryPointByVersion(
        "cuDevicePrimaryCtxGetState", &function, kCudaVersion,
        cudaEnableDefault, &found);
    if (error != cudaSuccess) (void)cudaGetLastError();
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Function>(function)
               : nullptr;
  }();
  unsigned int flags = 0;
  int active = 0;
  return get_state == nullptr ||
         (get_state(ordinal, &flags, &active) == CUDA_SUCCESS && active != 0);
}

}  // namespace

CurrentDevice::CurrentDevice(int ordinal) {
  int current = -1;
  if (cudaGetDevice(&current) == cudaSuccess && current == ordinal) return;
  before_ = current;
  cudaSetDevice(ordinal);  // What comes next reports a failure.
}

CurrentDevice::~CurrentDevice() {
  if (before_ >= 0 && IsInUse(before_)) cudaSetDevice(before_);
}

}  // namespace shardwright
