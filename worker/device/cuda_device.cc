#include "worker/device/cuda_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nvtx3/nvToolsExt.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/device/cuda_call.h"

namespace shardwright {
namespace {

// A named range on the profiler's timeline.
class ProfilerRange {
 public:
  explicit ProfilerRange(const char* name) { nvtxRangePushA(name); }
  ~ProfilerRange() { nvtxRangePop(); }
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;
};

absl::Status InvalidTensor(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR", message);
}

absl::StatusOr<std::vector<GpuFacts>> ListGpus() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    (void)cudaGetLastError();
    return Error(absl::StatusCode::kUnavailable, "NO_GPU",
                 absl::StrCat("CUDA shows no GPU to this process: ",
                              cudaGetErrorString(error)));
  }
  std::vector<GpuFacts> gpus;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, i),
                               "asking for a GPU's properties"));
    gpus.push_back({properties.name, GpuUuidText(properties.uuid),
                    static_cast<int64_t>(properties.totalGlobalMem)});
  }
  return gpus;
}

absl::StatusOr<int> FindGpu(const std::vector<GpuFacts>& gpus,
                            absl::string_view gpu) {
  int index = 0;
  if (gpu.empty()) return index;
  const bool is_index = absl::SimpleAtoi(gpu, &index);
  if (is_index && index >= 0 && index < static_cast<int>(gpus.size())) {
    return index;
  }
  std::string known;
  for (size_t i = 0; i < gpus.size(); ++i) {
    if (gpus[i].uuid == gpu) return static_cast<int>(i);
    absl::StrAppend(&known, i == 0 ? "" : ", ", i, " (", gpus[i].uuid, ")");
  }
  return Error(absl::StatusCode::kNotFound, "GPU_NOT_FOUND",
               absl::StrCat("there is no GPU ", gpu, "; there are ", known));
}

int64_t RowsOfSource(const GpuCopy& copy, size_t k) {
  return copy.slot != nullptr ? copy.slot->bounds().source_rows[k]
                              : copy.table->source_rows()[k];
}

Direction DirectionOf(const GpuCopy& copy) {
  return copy.slot != nullptr ? copy.slot->direction() : copy.direction;
}

// Bytes that a copy writes; with a slot, at most.
int64_t WrittenBytes(const GpuCopy& copy) {
  if (DirectionOf(copy) == Direction::kForward) {
    return static_cast<int64_t>(copy.destination.size());
  }
  int64_t bytes = 0;
  for (const Bytes& source : copy.sources) bytes += source.size();
  return bytes;
}

// Sizes for a slot: as CheckCopies() for a table.
absl::Status CheckSlotSizes(const GpuCopy& copy) {
  const TableBounds& bounds = copy.slot->bounds();
  if (copy.row_bytes < 1) {
    return InvalidTensor(absl::StrCat("row_bytes is ", copy.row_bytes,
                                      ", but must be at least 1"));
  }
  if (copy.sources.size() != bounds.source_rows.size()) {
    return InvalidTensor(absl::StrCat("there are ", copy.sources.size(),
                                      " sources, but the slot is for ",
                                      bounds.source_rows.size()));
  }
  const auto check = [&](const std::string& name, ConstBytes buffer,
                         int64_t rows) {
    int64_t bytes = 0;
    if (!__builtin_mul_overflow(rows, copy.row_bytes, &bytes) &&
        static_cast<int64_t>(buffer.size()) == bytes) {
      return absl::OkStatus();
    }
    return InvalidTensor(absl::StrCat(
        name, " has ", buffer.size(), " bytes, but the slot's bounds are ",
        rows, " rows of ", copy.row_bytes, " bytes"));
  };
  for (size_t k = 0; k < copy.sources.size(); ++k) {
    RETURN_IF_ERROR(check(absl::StrCat("source ", k), copy.sources[k],
                          bounds.source_rows[k]));
  }
  return check("the destination", copy.destination, bounds.destination_rows);
}

absl::Status CheckFill(const GpuCopy& copy) {
  const size_t bytes = copy.fill_value.size();
  const bool small = bytes == 0 || bytes == 1 || bytes == 2 || bytes == 4 ||
                     bytes == 8 || bytes == 16;
  if (small && (bytes == 0 || copy.row_bytes % bytes == 0)) {
    return absl::OkStatus();
  }
  return InvalidTensor(
      absl::StrCat("the fill value has ", bytes,
                   " bytes, but must have 1, 2, 4, 8 or 16 that divide "
                   "row_bytes ",
                   copy.row_bytes));
}

absl::Status CheckNotCapturing(cudaStream_t stream) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  RETURN_IF_ERROR(CudaStatus(cudaStreamIsCapturing(stream, &capture),
                             "asking whether a stream is captured"));
  if (capture == cudaStreamCaptureStatusNone) return absl::OkStatus();
  return Error(absl::StatusCode::kFailedPrecondition, "CAPTURE_NEEDS_SLOT",
               "the stream is being captured: a graph reads its tables anew "
               "at each replay, so each has to be in a slot");
}

// 16, or the most that divides the row's size and all addresses.
int32_t AlignmentOf(const RowCopyArguments& arguments) {
  uint64_t bits = static_cast<uint64_t>(arguments.row_bytes) | 16;
  for (const char* buffer : arguments.buffers) {
    bits |= reinterpret_cast<uint64_t>(buffer);
  }
  return static_cast<int32_t>(bits & (~bits + 1));
}

RowCopyArguments ArgumentsOf(const GpuCopy& copy,
                             const MoveTableHeader* table) {
  RowCopyArguments arguments;
  arguments.table = table;
  arguments.row_bytes = copy.row_bytes;
  const size_t source_count = copy.sources.size();
  for (size_t k = 0; k < source_count; ++k) {
    arguments.buffers[k] = copy.sources[k].data();
  }
  arguments.buffers[source_count] = copy.destination.data();
  arguments.alignment = AlignmentOf(arguments);
  if (DirectionOf(copy) == Direction::kForward && !copy.fill_value.empty()) {
    for (size_t i = 0; i < sizeof(arguments.fill); ++i) {
      arguments.fill[i] = copy.fill_value[i % copy.fill_value.size()];
    }
  }
  return arguments;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaDevice>> CudaDevice::Open(
    absl::string_view gpu, int64_t table_bytes) {
  ASSIGN_OR_RETURN(const std::vector<GpuFacts> gpus, ListGpus());
  ASSIGN_OR_RETURN(const int ordinal, FindGpu(gpus, gpu));
  auto device = std::unique_ptr<CudaDevice>(new CudaDevice());
  device->facts_ = gpus[ordinal];
  RETURN_IF_ERROR(device->Initialize(ordinal, table_bytes));
  return device;
}

absl::Status CudaDevice::Initialize(int ordinal, int64_t table_bytes) {
  const CurrentDevice current(ordinal);
  int major = 0;
  RETURN_IF_ERROR(
      CudaStatus(cudaDeviceGetAttribute(
                     &major, cudaDevAttrComputeCapabilityMajor, ordinal),
                 "asking for a GPU's generation"));
  if (major < 8) {
    return Error(absl::StatusCode::kUnavailable, "NO_GPU",
                 absl::StrCat(facts_.name, " is of sm_", major,
                              "0, but sm_80 is the oldest supported"));
  }
  RETURN_IF_ERROR(
      CudaStatus(PrepareCopyRows(ordinal, &kernels_), "loading the kernels"));
  RETURN_IF_ERROR(
      CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                 "creating a stream"));
  const MutexLock lock(mutex_);
  ASSIGN_OR_RETURN(tables_, TableCache::Create(ordinal, table_bytes));
  return absl::OkStatus();
}

CudaDevice::~CudaDevice() {
  if (stream_ == nullptr) return;
  const CurrentDevice current(ordinal());
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

absl::Status CudaDevice::Prepare(const CopyTable& table, Direction direction) {
  const ProfilerRange range("shardwright.prepare");
  const MutexLock lock(mutex_);
  ASSIGN_OR_RETURN(ResidentTable* const resident,
                   tables_->Load(table, direction));
  TableCache::Unpin(*resident);
  return absl::OkStatus();
}

absl::Status CudaDevice::Run(absl::Span<const GpuCopy> copies,
                             cudaStream_t stream) {
  const ProfilerRange range("shardwright.copy_rows");
  bool all_in_slots = true;
  for (size_t i = 0; i < copies.size(); ++i) {
    const absl::Status fits = Check(copies[i]);
    if (!fits.ok()) {
      return Error(fits.code(), ReasonOf(fits),
                   absl::StrCat("copy ", i, ": ", fits.message()));
    }
    all_in_slots &= copies[i].slot != nullptr;
  }
  const CurrentDevice current(ordinal());
  if (!all_in_slots) RETURN_IF_ERROR(CheckNotCapturing(stream));
  const MutexLock lock(mutex_);
  absl::InlinedVector<ResidentTable*, kCopiesPerLaunchMax> resident;
  absl::Status status;
  for (size_t i = 0; i < copies.size() && status.ok(); ++i) {
    if (copies[i].slot != nullptr) continue;
    const absl::StatusOr<ResidentTable*> loaded =
        tables_->Load(*copies[i].table, copies[i].direction);
    status = loaded.status();
    if (loaded.ok()) resident.push_back(*loaded);
  }
  const auto launch = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return Launch(copies, resident, stream);
  };
  if (status.ok()) {
    status = all_in_slots ? launch() : tables_->Use(resident, stream, launch);
  }
  for (ResidentTable* table : resident) TableCache::Unpin(*table);
  return status;
}

absl::Status CudaDevice::Launch(absl::Span<const GpuCopy> copies,
                                absl::Span<ResidentTable* const> resident,
                                cudaStream_t stream) {
  auto next_resident = resident.begin();
  RowCopyArguments arguments[kCopiesPerLaunchMax];
  for (size_t first = 0; first < copies.size(); first += kCopiesPerLaunchMax) {
    const size_t count =
        std::min<size_t>(copies.size() - first, kCopiesPerLaunchMax);
    for (size_t i = 0; i < count; ++i) {
      const GpuCopy& copy = copies[first + i];
      arguments[i] =
          ArgumentsOf(copy, copy.slot != nullptr ? copy.slot->table()
                                                 : (*next_resident++)->device);
      copied_bytes_ += WrittenBytes(copy);
    }
    RETURN_IF_ERROR(CudaStatus(
        LaunchCopyRows(kernels_, arguments, static_cast<int>(count), stream),
        "starting a copy"));
  }
  return absl::OkStatus();
}

absl::Status CudaDevice::Check(const GpuCopy& copy) const {
  RETURN_IF_ERROR(CheckFill(copy));
  if (copy.slot != nullptr) {
    RETURN_IF_ERROR(CheckSlotSizes(copy));
  } else {
    RETURN_IF_ERROR(CheckCopies(*copy.table, copy.row_bytes,
                                absl::InlinedVector<ConstBytes, 4>(
                                    copy.sources.begin(), copy.sources.end()),
                                copy.destination, copy.fill_value,
                                copy.direction));
  }
  if (copy.element_bytes < 1 || copy.row_bytes % copy.element_bytes != 0) {
    return InvalidTensor(absl::StrCat("row_bytes ", copy.row_bytes,
                                      " is no multiple of the element's ",
                                      copy.element_bytes, " bytes"));
  }
  for (size_t k = 0; k < copy.sources.size(); ++k) {
    if (RowsOfSource(copy, k) == 0) continue;
    RETURN_IF_ERROR(CheckBuffer(absl::StrCat("source ", k), copy.sources[k],
                                copy.element_bytes));
  }
  if (copy.destination.empty()) return absl::OkStatus();
  return CheckBuffer("the destination", copy.destination, copy.element_bytes);
}

absl::Status CudaDevice::CheckBuffer(const std::string& name, ConstBytes buffer,
                                     int64_t element_bytes) const {
  if (buffer.data() == nullptr) {
    return InvalidTensor(
        absl::StrCat(name, " is null, but has ", buffer.size(), " bytes"));
  }
  const auto address = reinterpret_cast<uint64_t>(buffer.data());
  if (address % element_bytes != 0) {
    return InvalidTensor(absl::StrCat(
        name, " is at address 0x", absl::Hex(address),
        ", which is not aligned to its elements of ", element_bytes, " bytes"));
  }
  cudaPointerAttributes attributes;
  RETURN_IF_ERROR(
      CudaStatus(cudaPointerGetAttributes(&attributes, buffer.data()),
                 "asking where a buffer is"));
  if (attributes.type == cudaMemoryTypeUnregistered) {
    return InvalidTensor(
        absl::StrCat(name, " is in host memory that the GPU does not see"));
  }
  if (attributes.type == cudaMemoryTypeDevice &&
      attributes.device != ordinal()) {
    return InvalidTensor(absl::StrCat(name, " is on GPU ", attributes.device,
                                      ", but the copy runs on GPU ",
                                      ordinal()));
  }
  return absl::OkStatus();
}

absl::Status CudaDevice::RunForward(const CopyTable& table, int64_t row_bytes,
                                    absl::Span<const ConstBytes> sources,
                                    Bytes destination, ConstBytes fill_value) {
  GpuCopy copy;
  copy.table = &table;
  copy.row_bytes = row_bytes;
  for (const ConstBytes& source : sources) {
    // Only read in this direction.
    copy.sources.emplace_back(const_cast<char*>(source.data()), source.size());
  }
  copy.destination = destination;
  copy.fill_value = fill_value;
  return Run({copy}, stream_);
}

absl::Status CudaDevice::RunAdjoint(const CopyTable& table, int64_t row_bytes,
                                    ConstBytes destination,
                                    absl::Span<const Bytes> sources) {
  GpuCopy copy;
  copy.table = &table;
  copy.direction = Direction::kAdjoint;
  copy.row_bytes = row_bytes;
  copy.sources.assign(sources.begin(), sources.end());
  // Only read in this direction.
  copy.destination =
      Bytes(const_cast<char*>(destination.data()), destination.size());
  return Run({copy}, stream_);
}

absl::Status CudaDevice::Synchronize() {
  const CurrentDevice current(ordinal());
  return CudaStatus(cudaStreamSynchronize(stream_), "waiting for the GPU");
}

CudaDevice::Usage CudaDevice::usage() const {
  const MutexLock lock(mutex_);
  Usage usage;
  usage.table_count = tables_->table_count();
  usage.table_bytes = tables_->byte_count();
  usage.copied_bytes = copied_bytes_;
  return usage;
}

}  // namespace shardwright
