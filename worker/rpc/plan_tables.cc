#include "worker/rpc/plan_tables.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "proto/plan/fingerprint.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

std::string Describe(const v1::PlanTable& name) {
  return absl::StrCat(
      name.kind() == v1::PlanTable::LABELS ? "labels" : "embeddings",
      " of plan digest ", DigestText(name.digest()), " for rank ", name.rank());
}

int64_t EntriesOf(const CopyTable& table) {
  return static_cast<int64_t>(table.entries().size());
}

}  // namespace

absl::StatusOr<CopyTable> PlanTables::Find(const v1::PlanTable& name) {
  const MutexLock lock(mutex_);
  const auto found = by_key_.find(KeyOf(name));
  if (found == by_key_.end()) {
    return Error(absl::StatusCode::kNotFound, "PLAN_UNKNOWN",
                 absl::StrCat("plan_table: the session does not keep the "
                              "table of the ",
                              Describe(name)),
                 {{"digest", DigestText(name.digest())}});
  }
  order_.splice(order_.begin(), order_, found->second);
  return found->second->second;
}

absl::StatusOr<CopyTable> PlanTables::Keep(const v1::PlanTable& name,
                                           const CopyTable& table) {
  if (EntriesOf(table) > kEntriesMax) return table;
  const MutexLock lock(mutex_);
  const Key key = KeyOf(name);
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    if (!(found->second->second == table)) {
      return Error(absl::StatusCode::kInvalidArgument, "PLAN_DIFFERS",
                   absl::StrCat("plan_table: the session keeps another table "
                                "of the ",
                                Describe(name)),
                   {{"digest", DigestText(name.digest())}});
    }
    order_.splice(order_.begin(), order_, found->second);
    return found->second->second;
  }
  order_.emplace_front(key, table);
  by_key_[key] = order_.begin();
  entry_count_ += EntriesOf(table);
  while (static_cast<int64_t>(order_.size()) > kTablesMax ||
         entry_count_ > kEntriesMax) {
    entry_count_ -= EntriesOf(order_.back().second);
    by_key_.erase(order_.back().first);
    order_.pop_back();
  }
  return table;
}

int64_t PlanTables::count() const {
  const MutexLock lock(mutex_);
  return static_cast<int64_t>(order_.size());
}

}  // namespace shardwright
