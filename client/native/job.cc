#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/json/plan_json.h"
#include "client/native/call.h"
#include "client/native/handles.h"
#include "proto/plan/codec.h"
#include "proto/plan/document.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

absl::StatusOr<Layout> ReadLayout(const std::string& text,
                                  const std::string& name) {
  v1::Layout message;
  const Document document = ReadDocument(text, message);
  const Problems problems = CheckLayoutDocument(document, message);
  if (problems.empty()) return Layout::Create(LayoutSpecFromProto(message));
  const absl::Status status = ProblemsToStatus("INVALID_LAYOUT", problems);
  const std::string lines = FormatProblems(name, document, problems);
  return Error(status.code(),
               absl::StrCat("'", name, "' is not a layout:\n",
                            absl::StripSuffix(lines, "\n")),
               DetailOf(status));
}

absl::StatusOr<v1::RankExplanation> Explain(const sw_job& job, int64_t rank) {
  if (job.layout.has_value()) {
    return ExplainRank(*job.layout, rank, /*generation=*/0);
  }
  v1::ExplainRankRequest request;
  request.set_job(job.name);
  request.set_rank(rank);
  return job.client->ExplainRank(request);
}

absl::StatusOr<nlohmann::ordered_json> Groups(const sw_job& job) {
  if (job.layout.has_value()) return GroupsJson(*job.layout);
  v1::GetLayoutRequest request;
  request.set_job(job.name);
  ASSIGN_OR_RETURN(const v1::GetLayoutResponse response,
                   job.client->GetLayout(request));
  ASSIGN_OR_RETURN(const Layout layout, LayoutFromProto(response.layout()));
  return GroupsJson(layout);
}

}  // namespace
}  // namespace shardwright

using shardwright::Call;
using shardwright::CheckLive;
using shardwright::CheckNotNull;
using shardwright::CopyText;

sw_code sw_job_connect(const char* address, const char* job,
                       int64_t retry_timeout_ms, sw_job** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(
        CheckNotNull({{"address", address}, {"job", job}, {"out", out}}));
    shardwright::CoordinatorClient::Options options;
    options.retry_timeout = absl::Milliseconds(retry_timeout_ms);
    auto handle = std::make_unique<sw_job>();
    handle->name = job;
    handle->client = shardwright::CoordinatorClient::Create(address, options);
    *out = handle.release();
    return absl::OkStatus();
  });
}

sw_code sw_job_read(const char* text, const char* name, sw_job** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(
        CheckNotNull({{"text", text}, {"name", name}, {"out", out}}));
    ASSIGN_OR_RETURN(shardwright::Layout layout,
                     shardwright::ReadLayout(text, name));
    auto handle = std::make_unique<sw_job>();
    handle->name = layout.name();
    handle->layout = std::move(layout);
    *out = handle.release();
    return absl::OkStatus();
  });
}

void sw_job_destroy(sw_job* job) { delete job; }

sw_code sw_job_explain_rank(const sw_job* job, int64_t rank, char** json) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("job", job));
    RETURN_IF_ERROR(CheckNotNull({{"json", json}}));
    ASSIGN_OR_RETURN(const shardwright::v1::RankExplanation explanation,
                     shardwright::Explain(*job, rank));
    *json = CopyText(shardwright::RankExplanationJson(explanation).dump());
    return absl::OkStatus();
  });
}

sw_code sw_job_groups(const sw_job* job, char** json) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("job", job));
    RETURN_IF_ERROR(CheckNotNull({{"json", json}}));
    ASSIGN_OR_RETURN(const nlohmann::ordered_json groups,
                     shardwright::Groups(*job));
    *json = CopyText(groups.dump());
    return absl::OkStatus();
  });
}
