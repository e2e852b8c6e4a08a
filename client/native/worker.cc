#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "client/native/call.h"
#include "client/native/session.h"
#include "client/native/shardwright_service.h"
#include "nlohmann/json.hpp"
#include "proto/plan/codec.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

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
  json["context_memory_bytes"] = worker.context_memory_bytes();
  json["sessions"] = nlohmann::ordered_json::array();
  for (const v1::SessionDescription& session : worker.sessions()) {
    json["sessions"].push_back({{"segment_count", session.segment_count()},
                                {"region_count", session.region_count()},
                                {"region_bytes", session.region_bytes()},
                                {"table_count", session.table_count()},
                                {"order", session.order()},
                                {"order_reason", session.order_reason()}});
  }
  return json;
}

}  // namespace
}  // namespace shardwright

using shardwright::Call;
using shardwright::CheckLive;
using shardwright::CheckNotNull;

sw_code sw_worker_connect(const char* address, int64_t timeout_ms,
                          sw_worker** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotNull({{"address", address}, {"out", out}}));
    shardwright::WorkerClient::Options options;
    options.call_timeout = absl::Milliseconds(timeout_ms);
    *out = new sw_worker(shardwright::WorkerClient::Create(address, options));
    return absl::OkStatus();
  });
}

void sw_worker_destroy(sw_worker* worker) { delete worker; }

sw_code sw_worker_describe(const sw_worker* worker, char** json) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("worker", worker));
    RETURN_IF_ERROR(CheckNotNull({{"json", json}}));
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
    RETURN_IF_ERROR(CheckLive("worker", worker));
    RETURN_IF_ERROR(CheckNotNull({{"out", out}}));
    ASSIGN_OR_RETURN(const shardwright::v1::OpenSessionRequest request,
                     shardwright::SegmentsFrom(segments, segment_count));
    auto session = std::make_unique<sw_session>(worker->client);
    ASSIGN_OR_RETURN(session->session, worker->client.OpenSession(request));
    *out = session.release();
    return absl::OkStatus();
  });
}

void sw_session_destroy(sw_session* session) { delete session; }

sw_code sw_session_run(const sw_session* session,
                       const sw_operation* operations, int64_t operation_count,
                       int64_t* copied_bytes) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("session", session));
    ASSIGN_OR_RETURN(shardwright::Copies copies,
                     shardwright::CopiesFrom(operations, operation_count));
    ASSIGN_OR_RETURN(const shardwright::v1::RunCopiesResponse response,
                     session->Run(std::move(copies)));
    if (copied_bytes != nullptr) *copied_bytes = response.copied_bytes();
    return absl::OkStatus();
  });
}

sw_code sw_session_gather(const sw_session* session, const char* kind,
                          const sw_operation* operation,
                          int64_t* restored_rows) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("session", session));
    RETURN_IF_ERROR(CheckNotNull({{"kind", kind}, {"operation", operation}}));
    ASSIGN_OR_RETURN(shardwright::Copies copies,
                     shardwright::CopiesFrom(operation, 1));
    shardwright::v1::GatherShardsRequest request;
    request.set_session_id(session->session->id());
    request.set_kind(kind);
    *request.mutable_operation() =
        std::move(*copies.request.mutable_operations(0));
    *request.mutable_operation()->mutable_table() =
        shardwright::ToProto(*copies.tables[0]);
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
