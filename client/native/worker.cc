#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cc/worker_client.h"
#include "client/native/call.h"
#include "client/native/handles.h"
#include "client/native/shardwright_service.h"
#include "nlohmann/json.hpp"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

struct sw_worker {
  shardwright::WorkerClient client;
};

struct sw_session {
  shardwright::WorkerClient client;
  std::unique_ptr<shardwright::WorkerSession> session;
};

namespace shardwright {
namespace {

constexpr int64_t kSegmentsMax = 64;
constexpr int64_t kOperationsMax = 4096;

nlohmann::ordered_json DescriptionJson(const v1::WorkerDescription& worker) {
  nlohmann::ordered_json json;
  json["job"] = worker.member().job();
  json["rank"] = worker.member().rank();
  json["kind"] = v1::MemberKind_Name(worker.member().kind());
  json["generation"] = worker.generation();
  json["phase"] = worker.phase();
  json["facts"] = {{"host", worker.facts().host()},
                   {"pid", worker.facts().pid()},
                   {"address", worker.facts().address()},
                   {"device", worker.facts().device()},
                   {"comm_backend", worker.facts().comm_backend()}};
  json["cliques"] = nlohmann::ordered_json::array();
  for (const v1::CliqueDescription& clique : worker.cliques()) {
    nlohmann::ordered_json entry;
    entry["name"] = clique.name();
    entry["attempt"] = clique.attempt();
    entry["ranks"] =
        std::vector<int64_t>(clique.ranks().begin(), clique.ranks().end());
    entry["state"] = clique.state();
    json["cliques"].push_back(std::move(entry));
  }
  json["session_count"] = worker.session_count();
  json["copied_bytes"] = worker.copied_bytes();
  return json;
}

v1::Tensor ToProto(const sw_tensor& tensor) {
  v1::Tensor message;
  message.mutable_segment()->set_index(tensor.segment);
  message.mutable_segment()->set_offset_bytes(tensor.offset_bytes);
  message.mutable_segment()->set_size_bytes(tensor.size_bytes);
  return message;
}

absl::StatusOr<v1::CopyOperation> OperationFrom(const sw_operation& in) {
  RETURN_IF_ERROR(CheckNotNull({{"operation.plan", in.plan}}));
  ASSIGN_OR_RETURN(const sw_plan::Table* table, in.plan->Find(in.table));
  RETURN_IF_ERROR(CheckArray("operation.sources", in.sources, in.source_count,
                             CopyTable::kSourcesMax));
  RETURN_IF_ERROR(
      CheckArray("operation.fill bytes", in.fill, in.fill_bytes, in.row_bytes));
  v1::CopyOperation operation;
  *operation.mutable_table() = ToProto(*table->copies);
  for (int64_t k = 0; k < in.source_count; ++k) {
    *operation.add_sources() = ToProto(in.sources[k]);
  }
  *operation.mutable_destination() = ToProto(in.destination);
  operation.set_row_bytes(in.row_bytes);
  if (in.fill_bytes > 0) {
    operation.set_fill_value(in.fill, static_cast<size_t>(in.fill_bytes));
  }
  operation.set_adjoint(in.adjoint != 0);
  return operation;
}

}  // namespace
}  // namespace shardwright

using shardwright::Call;
using shardwright::CheckArray;
using shardwright::CheckNotNull;

sw_code sw_worker_connect(const char* address, int64_t timeout_ms,
                          sw_worker** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotNull({{"address", address}, {"out", out}}));
    shardwright::WorkerClient::Options options;
    options.call_timeout = absl::Milliseconds(timeout_ms);
    *out = new sw_worker{shardwright::WorkerClient::Create(address, options)};
    return absl::OkStatus();
  });
}

void sw_worker_destroy(sw_worker* worker) { delete worker; }

sw_code sw_worker_describe(const sw_worker* worker, char** json) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotNull({{"worker", worker}, {"json", json}}));
    ASSIGN_OR_RETURN(const shardwright::v1::WorkerDescription description,
                     worker->client.Describe());
    *json =
        shardwright::CopyText(shardwright::DescriptionJson(description).dump());
    return absl::OkStatus();
  });
}

sw_code sw_session_open(const sw_worker* worker, const sw_segment* segments,
                        int64_t segment_count, sw_session** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotNull({{"worker", worker}, {"out", out}}));
    RETURN_IF_ERROR(CheckArray("segments", segments, segment_count,
                               shardwright::kSegmentsMax));
    shardwright::v1::OpenSessionRequest request;
    for (int64_t i = 0; i < segment_count; ++i) {
      RETURN_IF_ERROR(CheckNotNull({{"segment.name", segments[i].name}}));
      shardwright::v1::SharedMemory* segment = request.add_segments();
      segment->set_name(segments[i].name);
      segment->set_size_bytes(segments[i].size_bytes);
    }
    ASSIGN_OR_RETURN(std::unique_ptr<shardwright::WorkerSession> session,
                     worker->client.OpenSession(request));
    *out = new sw_session{worker->client, std::move(session)};
    return absl::OkStatus();
  });
}

void sw_session_destroy(sw_session* session) { delete session; }

sw_code sw_session_run(const sw_session* session,
                       const sw_operation* operations, int64_t operation_count,
                       int64_t* copied_bytes) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotNull({{"session", session}}));
    RETURN_IF_ERROR(CheckArray("operations", operations, operation_count,
                               shardwright::kOperationsMax));
    shardwright::v1::RunCopiesRequest request;
    request.set_session_id(session->session->id());
    for (int64_t i = 0; i < operation_count; ++i) {
      ASSIGN_OR_RETURN(*request.add_operations(),
                       shardwright::OperationFrom(operations[i]));
    }
    ASSIGN_OR_RETURN(const shardwright::v1::RunCopiesResponse response,
                     session->client.RunCopies(request));
    if (copied_bytes != nullptr) *copied_bytes = response.copied_bytes();
    return absl::OkStatus();
  });
}

sw_code sw_session_gather(const sw_session* session, const char* kind,
                          const sw_operation* operation,
                          int64_t* restored_rows) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotNull(
        {{"session", session}, {"kind", kind}, {"operation", operation}}));
    shardwright::v1::GatherShardsRequest request;
    request.set_session_id(session->session->id());
    request.set_kind(kind);
    ASSIGN_OR_RETURN(*request.mutable_operation(),
                     shardwright::OperationFrom(*operation));
    request.set_digest(operation->plan->plan.digest);
    ASSIGN_OR_RETURN(const shardwright::v1::GatherShardsResponse response,
                     session->client.GatherShards(request));
    if (restored_rows != nullptr) {
      // Never more than the caller has room for, whatever the worker says.
      std::copy_n(response.restored_rows().begin(),
                  std::min<int64_t>(response.restored_rows_size(),
                                    operation->source_count),
                  restored_rows);
    }
    return absl::OkStatus();
  });
}
