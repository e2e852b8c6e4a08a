#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/native/call.h"
#include "client/native/session.h"
#include "client/native/shardwright_region.h"
#include "nlohmann/json.hpp"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/device/process_identity.h"

namespace shardwright {
namespace {

constexpr size_t kHandleBytes = 64;

absl::Status InvalidArgument(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_ARGUMENT", message);
}

absl::Status CheckOrder(sw_order order) {
  if (order == SW_ORDER_BEST || order == SW_ORDER_HOST) return absl::OkStatus();
  return InvalidArgument(absl::StrCat(
      "order is ", order, ", must be SW_ORDER_BEST or SW_ORDER_HOST"));
}

v1::ProcessIdentity MessageOf(const ProcessIdentity& identity) {
  v1::ProcessIdentity message;
  message.set_pid(identity.pid);
  message.set_pid_namespace(identity.pid_namespace);
  message.set_boot_id(identity.boot_id);
  message.set_shm_device(identity.shm_device);
  return message;
}

absl::StatusOr<std::unique_ptr<sw_session>> OpenGpu(
    const sw_worker& worker, v1::OpenSessionRequest request, int ordinal,
    sw_order order) {
  auto session = std::make_unique<sw_session>(worker.client);
  session->order = std::make_shared<StreamOrder>(ordinal);
  v1::TrainerGpu& gpu = *request.mutable_gpu();
  ASSIGN_OR_RETURN(*gpu.mutable_gpu_uuid(), GpuUuid(ordinal));
  *gpu.mutable_process() = MessageOf(OwnProcessIdentity());
  if (order == SW_ORDER_BEST) {
    gpu.set_ready_event(session->order->MakeReadyEvent());
  }
  ASSIGN_OR_RETURN(session->session, worker.client.OpenSession(request));
  session->order->Accept(session->session->gpu());
  return session;
}

absl::Status Register(const sw_session& session,
                      v1::RegisterRegionRequest request, int64_t* region) {
  request.set_session_id(session.session->id());
  ASSIGN_OR_RETURN(const v1::RegisterRegionResponse response,
                   session.client.RegisterRegion(request));
  *region = response.region_id();
  return absl::OkStatus();
}

absl::StatusOr<v1::RunCopiesResponse> RunInOrder(const sw_session& session,
                                                 Copies copies,
                                                 GpuStream stream) {
  StreamOrder& order = *session.order;
  const MutexLock lock(order.running());
  RETURN_IF_ERROR(order.Before(stream));
  return session.Run(std::move(copies));
}

}  // namespace
}  // namespace shardwright

using shardwright::Call;
using shardwright::CheckHasGpu;
using shardwright::CheckLive;
using shardwright::CheckNotNull;

sw_code sw_session_open_gpu(const sw_worker* worker, const sw_segment* segments,
                            int64_t segment_count, int32_t ordinal,
                            sw_order order, sw_session** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("worker", worker));
    RETURN_IF_ERROR(CheckNotNull({{"out", out}}));
    RETURN_IF_ERROR(shardwright::CheckOrder(order));
    ASSIGN_OR_RETURN(shardwright::v1::OpenSessionRequest request,
                     shardwright::SegmentsFrom(segments, segment_count));
    ASSIGN_OR_RETURN(
        std::unique_ptr<sw_session> session,
        shardwright::OpenGpu(*worker, std::move(request), ordinal, order));
    *out = session.release();
    return absl::OkStatus();
  });
}

sw_code sw_session_get_order(const sw_session* session, char** json) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotNull({{"json", json}}));
    RETURN_IF_ERROR(CheckHasGpu(session));
    const shardwright::v1::GpuSession& gpu = session->session->gpu();
    const bool events = gpu.order() == shardwright::v1::GpuSession::EVENTS;
    *json = shardwright::CopyText(
        nlohmann::ordered_json({{"order", events ? "events" : "host"},
                                {"reason", gpu.order_reason()}})
            .dump());
    return absl::OkStatus();
  });
}

sw_code sw_session_check(const sw_session* session) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("session", session));
    return session->session->status();
  });
}

sw_code sw_session_register_region(sw_session* session, const void* pointer,
                                   int64_t size_bytes, int64_t* region) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotNull({{"pointer", pointer}, {"region", region}}));
    RETURN_IF_ERROR(CheckHasGpu(session));
    ASSIGN_OR_RETURN(const shardwright::SharedMemoryRange range,
                     shardwright::ExportMemory(pointer, size_bytes));
    shardwright::v1::RegisterRegionRequest request;
    request.set_gpu_uuid(range.gpu_uuid);
    request.set_memory_handle(range.handle);
    request.set_allocation_bytes(range.allocation_bytes);
    request.set_offset_bytes(range.offset_bytes);
    request.set_size_bytes(size_bytes);
    return shardwright::Register(*session, std::move(request), region);
  });
}

sw_code sw_session_register_handle(sw_session* session,
                                   const sw_memory_handle* memory,
                                   int64_t* region) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotNull({{"memory", memory}, {"region", region}}));
    RETURN_IF_ERROR(
        CheckNotNull({{"memory.memory_handle", memory->memory_handle}}));
    RETURN_IF_ERROR(CheckHasGpu(session));
    shardwright::v1::RegisterRegionRequest request;
    ASSIGN_OR_RETURN(*request.mutable_gpu_uuid(),
                     shardwright::GpuUuid(session->order->ordinal()));
    request.set_memory_handle(memory->memory_handle, shardwright::kHandleBytes);
    request.set_allocation_bytes(memory->allocation_bytes);
    request.set_offset_bytes(memory->offset_bytes);
    request.set_size_bytes(memory->size_bytes);
    return shardwright::Register(*session, std::move(request), region);
  });
}

sw_code sw_session_unregister_region(sw_session* session, int64_t region) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckHasGpu(session));
    shardwright::v1::UnregisterRegionRequest request;
    request.set_session_id(session->session->id());
    request.set_region_id(region);
    return session->client.UnregisterRegion(request).status();
  });
}

sw_code sw_session_run_regions(const sw_session* session,
                               const sw_region_operation* operations,
                               int64_t operation_count, void* stream,
                               int64_t* copied_bytes) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckHasGpu(session));
    ASSIGN_OR_RETURN(shardwright::Copies copies,
                     shardwright::CopiesFrom(operations, operation_count));
    ASSIGN_OR_RETURN(
        const shardwright::v1::RunCopiesResponse response,
        shardwright::RunInOrder(*session, std::move(copies),
                                static_cast<shardwright::GpuStream>(stream)));
    if (copied_bytes != nullptr) *copied_bytes = response.copied_bytes();
    return absl::OkStatus();
  });
}
