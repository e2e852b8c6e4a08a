#include <utility>

#include "absl/strings/str_cat.h"
#include "client/native/call.h"
#include "client/native/route.h"
#include "client/native/session.h"
#include "client/native/shardwright_route.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

constexpr int64_t kElementBytesMax = 16;

// Of an sw_bridge or an sw_region_bridge.
template <typename Bridge>
absl::StatusOr<v1::RunBridgeRequest> RequestFrom(const sw_session& session,
                                                 const Bridge& in) {
  RETURN_IF_ERROR(CheckLive("bridge.route", in.route));
  RETURN_IF_ERROR(CheckArray("bridge.sources", in.sources, in.source_count,
                             CopyTable::kSourcesMax));
  if (in.element_bytes < 1 || in.element_bytes > kElementBytesMax) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR",
                 absl::StrCat("bridge.element_bytes is ", in.element_bytes,
                              ", must be 1 to ", kElementBytesMax));
  }
  v1::RunBridgeRequest request;
  request.set_session_id(session.session->id());
  ToProto(in.route->plan, *request.mutable_plan());
  request.set_backward(in.backward != 0);
  for (int64_t k = 0; k < in.source_count; ++k) {
    *request.add_sources() = ToProto(in.sources[k]);
  }
  *request.mutable_shard() = ToProto(in.shard);
  request.set_row_bytes(in.row_bytes);
  request.set_element_bytes(in.element_bytes);
  if (in.fill != nullptr) {
    request.set_fill_value(in.fill, static_cast<size_t>(in.element_bytes));
  }
  request.set_sequence(in.sequence);
  return request;
}

void Set(const v1::RunBridgeResponse& response, sw_bridge_result* result) {
  if (result == nullptr) return;
  *result = {response.sent_bytes(), response.received_bytes()};
}

}  // namespace
}  // namespace shardwright

using shardwright::Call;
using shardwright::CheckNotNull;

sw_code sw_session_bridge(const sw_session* session, const sw_bridge* bridge,
                          sw_bridge_result* result) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(shardwright::CheckLive("session", session));
    RETURN_IF_ERROR(CheckNotNull({{"bridge", bridge}}));
    ASSIGN_OR_RETURN(const shardwright::v1::RunBridgeRequest request,
                     shardwright::RequestFrom(*session, *bridge));
    ASSIGN_OR_RETURN(const shardwright::v1::RunBridgeResponse response,
                     session->client.RunBridge(request));
    shardwright::Set(response, result);
    return absl::OkStatus();
  });
}

sw_code sw_session_bridge_regions(const sw_session* session,
                                  const sw_region_bridge* bridge, void* stream,
                                  sw_bridge_result* result) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(shardwright::CheckHasGpu(session));
    RETURN_IF_ERROR(CheckNotNull({{"bridge", bridge}}));
    ASSIGN_OR_RETURN(const shardwright::v1::RunBridgeRequest request,
                     shardwright::RequestFrom(*session, *bridge));
    shardwright::StreamOrder& order = *session->order;
    const shardwright::MutexLock lock(order.running());
    RETURN_IF_ERROR(order.Before(static_cast<shardwright::GpuStream>(stream)));
    ASSIGN_OR_RETURN(const shardwright::v1::RunBridgeResponse response,
                     session->client.RunBridge(request));
    shardwright::Set(response, result);
    return absl::OkStatus();
  });
}
