#include "worker/device/cuda_ipc.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cuda.h"
#include "cuda_runtime_api.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/device/cuda_call.h"

namespace shardwright {
namespace {

absl::Status InvalidRegion(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_REGION", message);
}

std::string AddressText(const void* pointer) {
  return absl::StrCat("0x", absl::Hex(reinterpret_cast<uint64_t>(pointer)));
}

// A function of the driver, which is found when the program runs.
template <typename Function>
absl::StatusOr<Function> DriverFunction(const char* name) {
  constexpr unsigned int kCudaVersion = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  RETURN_IF_ERROR(
      CudaStatus(cudaGetDriverEntryPointByVersion(name, &function, kCudaVersion,
                                                  cudaEnableDefault, &found),
                 name));
  if (found == cudaDriverEntryPointSuccess && function != nullptr) {
    return reinterpret_cast<Function>(function);
  }
  return Error(absl::StatusCode::kDataLoss, "DEVICE_FAILED",
               absl::StrCat("the driver has no ", name));
}

// The allocation that an address is in.
absl::StatusOr<Bytes> AllocationAround(const void* pointer) {
  using Function = CUresult (*)(CUdeviceptr*, size_t*, CUdeviceptr);
  ASSIGN_OR_RETURN(const Function address_range,
                   DriverFunction<Function>("cuMemGetAddressRange"));
  CUdeviceptr base = 0;
  size_t size = 0;
  const CUresult result =
      address_range(&base, &size, reinterpret_cast<CUdeviceptr>(pointer));
  if (result == CUDA_SUCCESS) {
    return Bytes(reinterpret_cast<char*>(base), size);
  }
  return InvalidRegion(absl::StrCat("no allocation is at address ",
                                    AddressText(pointer), ": CUDA error ",
                                    static_cast<int>(result)));
}

absl::Status CheckCanBeShared(const void* pointer) {
  using Function = CUresult (*)(void*, CUpointer_attribute, CUdeviceptr);
  ASSIGN_OR_RETURN(const Function get_attribute,
                   DriverFunction<Function>("cuPointerGetAttribute"));
  int capable = 1;
  const CUresult result =
      get_attribute(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
                    reinterpret_cast<CUdeviceptr>(pointer));
  if (result != CUDA_SUCCESS || capable != 0) return absl::OkStatus();
  return InvalidRegion(absl::StrCat(
      "the memory at ", AddressText(pointer),
      " is not of cudaMalloc, so CUDA IPC does not share it: unset "
      "expandable_segments in PYTORCH_CUDA_ALLOC_CONF, or allocate it outside "
      "of cudaMallocAsync's pools and of other virtual memory"));
}

template <typename Handle>
absl::Status CopyHandle(absl::string_view bytes, const char* field,
                        Handle& handle) {
  static_assert(sizeof(Handle) == 64, "CUDA's handles have 64 bytes");
  if (bytes.size() == sizeof(handle)) {
    std::memcpy(&handle, bytes.data(), sizeof(handle));
    return absl::OkStatus();
  }
  return InvalidRegion(absl::StrCat(field, " has ", bytes.size(),
                                    " bytes, but must have ", sizeof(handle)));
}

// Of what a query of a stream or an event returned.
absl::StatusOr<bool> IsDone(cudaError_t error, const char* what) {
  if (error == cudaErrorNotReady) {
    (void)cudaGetLastError();
    return false;
  }
  RETURN_IF_ERROR(CudaStatus(error, what));
  return true;
}

template <typename Handle>
std::string HandleText(const Handle& handle) {
  return std::string(reinterpret_cast<const char*>(&handle), sizeof(handle));
}

}  // namespace

absl::StatusOr<std::string> GpuUuid(int ordinal) {
  int count = 0;
  RETURN_IF_ERROR(CudaStatus(cudaGetDeviceCount(&count), "counting the GPUs"));
  if (ordinal < 0 || ordinal >= count) {
    return Error(absl::StatusCode::kNotFound, "GPU_NOT_FOUND",
                 absl::StrCat("there is no GPU ", ordinal,
                              "; CUDA shows this process ", count));
  }
  cudaDeviceProp properties;
  RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, ordinal),
                             "asking for a GPU's properties"));
  return GpuUuidText(properties.uuid);
}

absl::StatusOr<SharedMemoryRange> ExportMemory(const void* pointer,
                                               int64_t size_bytes) {
  cudaPointerAttributes attributes;
  RETURN_IF_ERROR(CudaStatus(cudaPointerGetAttributes(&attributes, pointer),
                             "asking where memory is"));
  if (attributes.type != cudaMemoryTypeDevice) {
    return InvalidRegion(absl::StrCat("the memory at ", AddressText(pointer),
                                      " is not in a GPU"));
  }
  const CurrentDevice current(attributes.device);
  // Makes the GPU's context the thread's, for the driver's functions.
  RETURN_IF_ERROR(CudaStatus(cudaFree(nullptr), "using a GPU"));
  RETURN_IF_ERROR(CheckCanBeShared(pointer));
  ASSIGN_OR_RETURN(const Bytes allocation, AllocationAround(pointer));
  SharedMemoryRange range;
  range.allocation_bytes = static_cast<int64_t>(allocation.size());
  range.offset_bytes = static_cast<const char*>(pointer) - allocation.data();
  if (size_bytes < 1 ||
      size_bytes > range.allocation_bytes - range.offset_bytes) {
    return InvalidRegion(absl::StrCat(
        "size_bytes is ", size_bytes, " at offset ", range.offset_bytes,
        ", but the allocation has ", range.allocation_bytes, " bytes"));
  }
  cudaIpcMemHandle_t handle;
  RETURN_IF_ERROR(CudaStatus(cudaIpcGetMemHandle(&handle, allocation.data()),
                             "asking for the handle of memory to share"));
  range.handle = HandleText(handle);
  ASSIGN_OR_RETURN(range.gpu_uuid, GpuUuid(attributes.device));
  return range;
}

absl::StatusOr<Bytes> OpenMemory(int ordinal, absl::string_view handle) {
  cudaIpcMemHandle_t copy;
  RETURN_IF_ERROR(CopyHandle(handle, "memory_handle", copy));
  const CurrentDevice current(ordinal);
  void* pointer = nullptr;
  const cudaError_t error =
      cudaIpcOpenMemHandle(&pointer, copy, cudaIpcMemLazyEnablePeerAccess);
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    return InvalidRegion(absl::StrCat(
        "memory_handle opens nothing (was the memory freed, or is the GPU not "
        "visible to both?): ",
        cudaGetErrorName(error), ": ", cudaGetErrorString(error)));
  }
  const absl::StatusOr<Bytes> allocation = AllocationAround(pointer);
  if (!allocation.ok()) {
    cudaIpcCloseMemHandle(pointer);
    return allocation.status();
  }
  // From where the handle points to.
  return allocation->subspan(static_cast<char*>(pointer) - allocation->data());
}

absl::Status CloseMemory(int ordinal, Bytes memory) {
  const CurrentDevice current(ordinal);
  return CudaStatus(cudaIpcCloseMemHandle(memory.data()),
                    "closing another process's memory");
}

absl::Status SynchronizeStream(int ordinal, GpuStream stream) {
  const CurrentDevice current(ordinal);
  return CudaStatus(cudaStreamSynchronize(stream), "waiting for a stream");
}

absl::StatusOr<bool> IsStreamIdle(int ordinal, GpuStream stream) {
  const CurrentDevice current(ordinal);
  return IsDone(cudaStreamQuery(stream), "asking for a stream");
}

absl::StatusOr<std::unique_ptr<SharedEvent>> SharedEvent::Create(int ordinal) {
  const CurrentDevice current(ordinal);
  cudaEvent_t event = nullptr;
  RETURN_IF_ERROR(
      CudaStatus(cudaEventCreateWithFlags(
                     &event, cudaEventDisableTiming | cudaEventInterprocess),
                 "creating an event to share"));
  cudaIpcEventHandle_t handle;
  const absl::Status status =
      CudaStatus(cudaIpcGetEventHandle(&handle, event),
                 "asking for the handle of an event to share");
  if (!status.ok()) {
    cudaEventDestroy(event);
    return status;
  }
  return std::unique_ptr<SharedEvent>(
      new SharedEvent(ordinal, HandleText(handle), event));
}

absl::StatusOr<std::unique_ptr<SharedEvent>> SharedEvent::Open(
    int ordinal, absl::string_view handle) {
  cudaIpcEventHandle_t copy;
  RETURN_IF_ERROR(CopyHandle(handle, "the event's handle", copy));
  const CurrentDevice current(ordinal);
  cudaEvent_t event = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaIpcOpenEventHandle(&event, copy),
                             "opening another process's event"));
  return std::unique_ptr<SharedEvent>(
      new SharedEvent(ordinal, std::string(handle), event));
}

SharedEvent::~SharedEvent() {
  const CurrentDevice current(ordinal_);
  cudaEventDestroy(event_);
}

absl::Status SharedEvent::Record(GpuStream stream) {
  const CurrentDevice current(ordinal_);
  return CudaStatus(cudaEventRecord(event_, stream), "recording an event");
}

absl::StatusOr<bool> SharedEvent::IsDone() const {
  const CurrentDevice current(ordinal_);
  return shardwright::IsDone(cudaEventQuery(event_), "asking for an event");
}

}  // namespace shardwright
