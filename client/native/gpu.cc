#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/native/call.h"
#include "client/native/handles.h"
#include "client/native/shardwright_gpu.h"
#include "nlohmann/json.hpp"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/device/cuda_device.h"

struct sw_gpu : shardwright::LiveHandle {
  std::unique_ptr<shardwright::CudaDevice> device;
};

struct sw_gpu_slot : shardwright::LiveHandle {
  std::unique_ptr<shardwright::TableSlot> slot;
};

namespace shardwright {
namespace {

// Far above what one micro-batch has.
constexpr int64_t kOperationsMax = 1024;

absl::Status InvalidTensor(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR", message);
}

absl::StatusOr<int64_t> ElementBytes(const char* dtype) {
  RETURN_IF_ERROR(CheckNotNull({{"dtype", dtype}}));
  static constexpr std::pair<absl::string_view, int64_t> kTypes[] = {
      {"fp8", 1},   {"bf16", 2},  {"fp16", 2}, {"fp32", 4},
      {"int32", 4}, {"int64", 8}, {"bool", 1}};
  std::string known;
  for (const auto& [name, bytes] : kTypes) {
    if (name == dtype) return bytes;
    absl::StrAppend(&known, known.empty() ? "" : ", ", name);
  }
  return InvalidTensor(
      absl::StrCat("dtype is \"", dtype, "\", must be one of ", known));
}

Direction DirectionOf(int32_t adjoint) {
  return adjoint != 0 ? Direction::kAdjoint : Direction::kForward;
}

absl::StatusOr<const CopyTable*> TableOf(const sw_plan* plan, sw_table_id id) {
  RETURN_IF_ERROR(CheckLive("plan", plan));
  ASSIGN_OR_RETURN(const sw_plan::Table* table, plan->Find(id));
  return table->copies;
}

// What an operation reads or writes; its table or slot; nothing of buffers.
absl::Status SetTable(const sw_gpu_operation& in, GpuCopy& copy) {
  if ((in.plan == nullptr) == (in.slot == nullptr)) {
    return InvalidTensor("has to have either a plan or a slot");
  }
  if (in.slot != nullptr) {
    RETURN_IF_ERROR(CheckLive("slot", in.slot));
    copy.slot = in.slot->slot.get();
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(copy.table, TableOf(in.plan, in.table));
  copy.direction = DirectionOf(in.adjoint);
  return absl::OkStatus();
}

absl::StatusOr<GpuCopy> CopyOf(const sw_gpu_operation& in) {
  GpuCopy copy;
  RETURN_IF_ERROR(SetTable(in, copy));
  ASSIGN_OR_RETURN(copy.element_bytes, ElementBytes(in.dtype));
  if (in.row_elements < 1 ||
      __builtin_mul_overflow(in.row_elements, copy.element_bytes,
                             &copy.row_bytes)) {
    return InvalidTensor(absl::StrCat("row_elements is ", in.row_elements,
                                      ", must be at least 1"));
  }
  RETURN_IF_ERROR(CheckArray("sources", in.sources, in.source_count,
                             CopyTable::kSourcesMax));
  for (int64_t k = 0; k < in.source_count; ++k) {
    ASSIGN_OR_RETURN(copy.sources.emplace_back(),
                     BytesOf(absl::StrCat("source ", k), in.sources[k]));
  }
  ASSIGN_OR_RETURN(copy.destination,
                   BytesOf("the destination", in.destination));
  if (in.fill != nullptr) {
    copy.fill_value = {static_cast<const char*>(in.fill),
                       static_cast<size_t>(copy.element_bytes)};
  }
  return copy;
}

// The caller takes the view of the source.
bool IsTakenView(const sw_gpu_operation& in, const GpuCopy& copy) {
  return in.destination.data == nullptr && in.destination.size_bytes == 0 &&
         copy.table != nullptr && copy.table->IsView() &&
         copy.direction == Direction::kForward;
}

absl::Status Run(sw_gpu& gpu, const sw_gpu_operation* operations, int64_t count,
                 cudaStream_t stream) {
  RETURN_IF_ERROR(CheckArray("operations", operations, count, kOperationsMax));
  std::vector<GpuCopy> copies;
  copies.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    absl::StatusOr<GpuCopy> copy = CopyOf(operations[i]);
    if (!copy.ok()) {
      return Error(
          copy.status().code(), ReasonOf(copy.status()),
          absl::StrCat("operation ", i, ": ", copy.status().message()));
    }
    if (!IsTakenView(operations[i], *copy)) copies.push_back(*std::move(copy));
  }
  return gpu.device->Run(copies, stream);
}

std::string Describe(const CudaDevice& device) {
  const CudaDevice::Usage usage = device.usage();
  return nlohmann::ordered_json({{"name", device.facts().name},
                                 {"uuid", device.facts().uuid},
                                 {"memory_bytes", device.facts().memory_bytes},
                                 {"table_count", usage.table_count},
                                 {"table_bytes", usage.table_bytes},
                                 {"copied_bytes", usage.copied_bytes}})
      .dump();
}

absl::StatusOr<TableBounds> BoundsOf(const sw_slot_bounds& in) {
  RETURN_IF_ERROR(CheckArray("source_rows", in.source_rows, in.source_count,
                             CopyTable::kSourcesMax));
  TableBounds bounds;
  bounds.entry_count = in.entry_count;
  bounds.source_rows.assign(in.source_rows, in.source_rows + in.source_count);
  bounds.destination_rows = in.destination_rows;
  return bounds;
}

}  // namespace
}  // namespace shardwright

using shardwright::Call;
using shardwright::CheckLive;
using shardwright::CheckNotNull;

sw_code sw_gpu_open(int32_t ordinal, sw_gpu** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotNull({{"out", out}}));
    ASSIGN_OR_RETURN(auto device,
                     shardwright::CudaDevice::Open(absl::StrCat(ordinal)));
    auto gpu = std::make_unique<sw_gpu>();
    gpu->device = std::move(device);
    *out = gpu.release();
    return absl::OkStatus();
  });
}

void sw_gpu_destroy(sw_gpu* gpu) { delete gpu; }

sw_code sw_gpu_describe(const sw_gpu* gpu, char** json) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("gpu", gpu));
    RETURN_IF_ERROR(CheckNotNull({{"json", json}}));
    *json = shardwright::CopyText(shardwright::Describe(*gpu->device));
    return absl::OkStatus();
  });
}

sw_code sw_gpu_prepare(sw_gpu* gpu, const sw_plan* plan, sw_table_id table,
                       int32_t adjoint) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("gpu", gpu));
    ASSIGN_OR_RETURN(const shardwright::CopyTable* copies,
                     shardwright::TableOf(plan, table));
    return gpu->device->Prepare(*copies, shardwright::DirectionOf(adjoint));
  });
}

sw_code sw_gpu_slot_create(sw_gpu* gpu, const sw_slot_bounds* bounds,
                           int32_t adjoint, sw_gpu_slot** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("gpu", gpu));
    RETURN_IF_ERROR(CheckNotNull({{"bounds", bounds}, {"out", out}}));
    ASSIGN_OR_RETURN(shardwright::TableBounds most,
                     shardwright::BoundsOf(*bounds));
    auto slot = std::make_unique<sw_gpu_slot>();
    ASSIGN_OR_RETURN(slot->slot, shardwright::TableSlot::Create(
                                     gpu->device->ordinal(), std::move(most),
                                     shardwright::DirectionOf(adjoint)));
    *out = slot.release();
    return absl::OkStatus();
  });
}

void sw_gpu_slot_destroy(sw_gpu_slot* slot) { delete slot; }

sw_code sw_gpu_slot_write(sw_gpu_slot* slot, const sw_plan* plan,
                          sw_table_id table, void* stream) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("slot", slot));
    ASSIGN_OR_RETURN(const shardwright::CopyTable* copies,
                     shardwright::TableOf(plan, table));
    return slot->slot->Write(*copies, static_cast<cudaStream_t>(stream));
  });
}

sw_code sw_gpu_run(sw_gpu* gpu, const sw_gpu_operation* operations,
                   int64_t operation_count, void* stream) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("gpu", gpu));
    return shardwright::Run(*gpu, operations, operation_count,
                            static_cast<cudaStream_t>(stream));
  });
}
