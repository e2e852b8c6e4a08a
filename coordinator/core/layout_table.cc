#include "coordinator/core/layout_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

constexpr absl::string_view kKeyPrefix = "layout/";

JobLayout MakeJobLayout(Layout layout, v1::GetLayoutResponse record) {
  auto news = std::make_shared<v1::WatchLayoutsResponse>();
  *news->mutable_layout() = std::move(record);
  news->ByteSizeLong();  // It keeps that, for all who ask.
  const v1::GetLayoutResponse* part = &news->layout();
  return {std::make_shared<const Layout>(std::move(layout)),
          std::shared_ptr<const v1::GetLayoutResponse>(news, part), news};
}

std::string StoreKey(const std::string& job) {
  return absl::StrCat(kKeyPrefix, job);
}

}  // namespace

absl::Status StaleGeneration(const std::string& job, int64_t got,
                             int64_t current) {
  return Error(absl::StatusCode::kFailedPrecondition, "STALE_GENERATION",
               absl::StrCat("generation ", got, " of job ", job,
                            " is not the current one, which is ", current),
               {{"current_generation", absl::StrCat(current)},
                {"generation", absl::StrCat(got)}});
}

absl::Status LayoutTable::Load(const StateStore::Entries& entries,
                               StateStore::Entries& upgraded) {
  for (const auto& [key, value] : entries) {
    if (!absl::StartsWith(key, kKeyPrefix)) continue;
    v1::GetLayoutResponse record;
    absl::StatusOr<Layout> layout = absl::DataLossError("not a layout record");
    if (record.ParseFromString(value)) {
      layout = LayoutFromProto(record.layout());
    }
    if (!layout.ok()) {
      return Error(absl::StatusCode::kDataLoss, "STORE_UNREADABLE",
                   absl::StrCat("stored entry ", key, " cannot be read: ",
                                layout.status().message()));
    }
    last_revision_ = std::max(last_revision_, record.revision());
    const std::string job = layout->name();
    jobs_[job] = MakeJobLayout(*std::move(layout), std::move(record));
  }
  for (auto& [name, job] : jobs_) {
    if (job.revision() > 0) continue;
    v1::GetLayoutResponse record = *job.record;
    record.set_revision(++last_revision_);
    upgraded[StoreKey(name)] = record.SerializeAsString();
    job = MakeJobLayout(*job.layout, std::move(record));
  }
  for (const auto& [name, job] : jobs_) {
    job_by_revision_[job.revision()] = name;
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
    const v1::ApplyLayoutRequest& request, Layout layout,
    absl::Time now) const {
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
  v1::GetLayoutResponse record;
  *record.mutable_layout() = request.layout();
  record.set_generation(generation + 1);
  record.set_digest(layout.digest());
  *record.mutable_apply_time() = ToProto(now);
  record.set_revision(last_revision_ + 1);
  change.entries[StoreKey(layout.name())] = record.SerializeAsString();
  change.next = MakeJobLayout(std::move(layout), std::move(record));
  return change;
}

void LayoutTable::Adopt(const Change& change, Effects& effects) {
  const std::string& name = change.next.layout->name();
  const JobLayout* before = Find(name);
  if (before != nullptr) job_by_revision_.erase(before->revision());
  jobs_[name] = change.next;
  last_revision_ = change.next.revision();
  job_by_revision_[last_revision_] = name;
  for (auto& [stream, watcher] : watchers_) {
    if (!watcher.caught_up) continue;
    watcher.revision = last_revision_;
    if (watcher.job.empty() || watcher.job == name) {
      effects.Send(stream, change.next.news);
    }
  }
}

absl::Status LayoutTable::Watch(StreamId stream,
                                const v1::WatchLayoutsRequest& request,
                                Effects& effects) {
  if (!request.job().empty()) RETURN_IF_ERROR(Get(request.job()).status());
  if (request.revision() > last_revision_) {
    return Error(absl::StatusCode::kOutOfRange, "REVISION_AHEAD",
                 absl::StrCat("revision ", request.revision(),
                              " is above the last one, which is ",
                              last_revision_, "; begin again from 0"),
                 {{"current_revision", absl::StrCat(last_revision_)}});
  }
  watchers_[stream] = {request.job(), request.revision(), false};
  WatchOn(stream, effects);
  return absl::OkStatus();
}

void LayoutTable::WatchOn(StreamId stream, Effects& effects) {
  const auto found = watchers_.find(stream);
  if (found == watchers_.end() || found->second.caught_up) return;
  Watcher& watcher = found->second;
  int messages = 0;
  int64_t bytes = 0;
  for (auto next = job_by_revision_.upper_bound(watcher.revision);
       next != job_by_revision_.end(); ++next) {
    if (!watcher.job.empty() && watcher.job != next->second) continue;
    if (messages == kPortionMessagesMax || bytes >= kPortionBytesMax) return;
    const JobLayout& job = jobs_.at(next->second);
    effects.Send(stream, job.news);
    watcher.revision = next->first;
    ++messages;
    bytes += job.news->GetCachedSize();
  }
  watcher.revision = last_revision_;
  watcher.caught_up = true;
}

}  // namespace shardwright
