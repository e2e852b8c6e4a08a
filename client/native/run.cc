#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "client/native/call.h"
#include "client/native/handles.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/exec/executor.h"

namespace shardwright {

absl::StatusOr<Bytes> BytesOf(absl::string_view name, const sw_buffer& buffer) {
  if (buffer.size_bytes < 0) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR",
                 absl::StrCat(name, " has ", buffer.size_bytes, " bytes"));
  }
  if (buffer.size_bytes > 0) {
    RETURN_IF_ERROR(CheckNotNull({{name, buffer.data}}));
  }
  return Bytes(static_cast<char*>(buffer.data), buffer.size_bytes);
}

namespace {

absl::StatusOr<std::vector<Bytes>> SourcesOf(const sw_buffer* sources,
                                             int64_t count) {
  RETURN_IF_ERROR(
      CheckArray("sources", sources, count, CopyTable::kSourcesMax));
  std::vector<Bytes> all;
  for (int64_t k = 0; k < count; ++k) {
    ASSIGN_OR_RETURN(const Bytes bytes,
                     BytesOf(absl::StrCat("source ", k), sources[k]));
    all.push_back(bytes);
  }
  return all;
}

}  // namespace
}  // namespace shardwright

using shardwright::Call;
using shardwright::CheckLive;

sw_code sw_plan_run(const sw_plan* plan, sw_table_id id, int64_t row_bytes,
                    const sw_buffer* sources, int64_t source_count,
                    sw_buffer destination, const void* fill,
                    int64_t fill_bytes) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("plan", plan));
    ASSIGN_OR_RETURN(const sw_plan::Table* table, plan->Find(id));
    ASSIGN_OR_RETURN(const std::vector<shardwright::Bytes> from,
                     shardwright::SourcesOf(sources, source_count));
    ASSIGN_OR_RETURN(const shardwright::Bytes to,
                     shardwright::BytesOf("destination", destination));
    RETURN_IF_ERROR(
        shardwright::CheckArray("fill bytes", fill, fill_bytes, row_bytes));
    return shardwright::RunForward(
        *table->copies, row_bytes,
        std::vector<shardwright::ConstBytes>(from.begin(), from.end()), to,
        {static_cast<const char*>(fill), static_cast<size_t>(fill_bytes)});
  });
}

sw_code sw_plan_run_adjoint(const sw_plan* plan, sw_table_id id,
                            int64_t row_bytes, sw_buffer destination,
                            const sw_buffer* sources, int64_t source_count) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("plan", plan));
    ASSIGN_OR_RETURN(const sw_plan::Table* table, plan->Find(id));
    ASSIGN_OR_RETURN(const shardwright::Bytes from,
                     shardwright::BytesOf("destination", destination));
    ASSIGN_OR_RETURN(const std::vector<shardwright::Bytes> to,
                     shardwright::SourcesOf(sources, source_count));
    return shardwright::RunAdjoint(*table->copies, row_bytes, from, to);
  });
}
