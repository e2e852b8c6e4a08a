#include "coordinator/core/layout_table.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/proto_time.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

constexpr absl::string_view kKeyPrefix = "layout/";

}  // namespace

absl::Status StaleGeneration(const std::string& job, int64_t got,
                             int64_t current) {
  return Error(absl::StatusCode::kFailedPrecondition, "STALE_GENERATION",
               absl::StrCat("generation ", got, " of job ", job,
                            " is not the current one, which is ", current),
               {{"current_generation", absl::StrCat(current)},
                {"generation", absl::StrCat(got)}});
}

absl::Status LayoutTable::Load(const StateStore::Entries& entries) {
  for (const auto& [key, value] : entries) {
    if (!absl::StartsWith(key, kKeyPrefix)) continue;
    auto record = std::make_shared<v1::GetLayoutResponse>();
    absl::StatusOr<Layout> layout = absl::DataLossError("not a layout record");
    if (record->ParseFromString(value)) {
      layout = LayoutFromProto(record->layout());
    }
    if (!layout.ok()) {
      return Error(absl::StatusCode::kDataLoss, "STORE_UNREADABLE",
                   absl::StrCat("stored entry ", key, " cannot be read: ",
                                layout.status().message()));
    }
    const std::string job = layout->name();
    jobs_[job] = {std::make_shared<const Layout>(*std::move(layout)),
                  std::move(record)};
  }
  return absl::OkStatus();
}

const JobLayout* LayoutTable::Find(const std::string& job) const {
  const auto it = jobs_.find(job);
  return it == jobs_.end() ? nullptr : &it->second;
}

absl::StatusOr<JobLayout> LayoutTable::Get(const std::string& job) const {
  const JobLayout* found = Find(job);
  if (found == nullptr) {
    return Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND",
                 absl::StrCat("no layout named \"", job, "\" was applied"),
                 {{"job", job}});
  }
  return *found;
}

absl::StatusOr<LayoutTable::Change> LayoutTable::Prepare(
    const v1::ApplyLayoutRequest& request, absl::Time now) const {
  ASSIGN_OR_RETURN(Layout layout, LayoutFromProto(request.layout()));
  const JobLayout* current = Find(layout.name());
  const int64_t generation = current == nullptr ? 0 : current->generation();
  const bool equal =
      current != nullptr && current->layout->digest() == layout.digest();
  // One less than the current one, with the layout that is now in force, is
  // the repeat of a request whose answer was lost.
  if (request.has_if_generation() && request.if_generation() != generation &&
      !(equal && request.if_generation() + 1 == generation)) {
    return StaleGeneration(layout.name(), request.if_generation(), generation);
  }

  Change change;
  if (equal) {
    change.next = *current;
    return change;
  }
  change.changed = true;
  auto record = std::make_shared<v1::GetLayoutResponse>();
  *record->mutable_layout() = request.layout();
  record->set_generation(generation + 1);
  record->set_digest(layout.digest());
  *record->mutable_apply_time() = ToProto(now);
  change.entries[absl::StrCat(kKeyPrefix, layout.name())] =
      record->SerializeAsString();
  change.next = {std::make_shared<const Layout>(std::move(layout)),
                 std::move(record)};
  return change;
}

void LayoutTable::Adopt(const Change& change) {
  jobs_[change.next.layout->name()] = change.next;
}

}  // namespace shardwright
