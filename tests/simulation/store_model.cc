#include "tests/simulation/store_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/plan/codec.h"

namespace shardwright {
namespace simulation {

void StoreModel::BeginStep() {
  commit_count_ = 0;
  new_layouts_.clear();
  lost_.clear();
}

void StoreModel::Commit(const StateStore::Entries& entries) {
  ++commit_count_;
  const int64_t revision_before = revision_;
  for (const auto& [key, value] : entries) {
    if (key == "term") {
      int64_t term = 0;
      violations_.Require(absl::SimpleAtoi(value, &term) && term > term_,
                          "term: ", value, " is stored after ", term_);
      term_ = term;
    } else if (key == "revision") {
      int64_t revision = 0;
      violations_.Require(
          absl::SimpleAtoi(value, &revision) && revision >= revision_,
          "revision: ", value, " is stored after ", revision_);
      revision_ = revision;
    } else if (absl::StartsWith(key, "layout/")) {
      CommitLayout(value);
    }
  }
  for (const auto& [key, value] : entries) {
    if (absl::StartsWith(key, "member/")) {
      CommitMember(key, value, revision_before);
    }
  }
}

void StoreModel::CommitLayout(const std::string& value) {
  v1::GetLayoutResponse record;
  record.ParseFromString(value);
  absl::StatusOr<Layout> layout = LayoutFromProto(record.layout());
  violations_.Require(layout.ok() && layout->digest() == record.digest(),
                      "generation: a layout is stored that is none");
  if (!layout.ok()) return;
  const std::string name = layout->name();
  Job& job = jobs_[name];
  violations_.Require(record.generation() > job.generation,
                      "generation: ", record.generation(), " of ", name,
                      " is stored after ", job.generation);
  violations_.Require(
      job.layout == nullptr || job.layout->digest() != layout->digest(),
      "generation: ", record.generation(), " of ", name,
      " has the layout of the one before");
  violations_.Require(record.revision() > layout_revision_,
                      "revision: a layout's is ", record.revision(), " after ",
                      layout_revision_);
  layout_revision_ = record.revision();
  job.revision = record.revision();
  job.generation = record.generation();
  job.layout = std::make_shared<const Layout>(*std::move(layout));
  new_layouts_.insert(name);
}

void StoreModel::CommitMember(const std::string& key, const std::string& value,
                              int64_t revision_before) {
  stored::Member record;
  violations_.Require(record.ParseFromString(value), "member: ", key,
                      " cannot be read");
  const MemberKey member = KeyOf(record.member());
  const auto [found, is_new] = members_.try_emplace(member, record);
  if (is_new) return;
  stored::Member& before = found->second;
  const bool was_live = before.state() == v1::Member::LIVE;
  if (before.incarnation() != record.incarnation()) {
    violations_.Require(!was_live, "fencing: ", Describe(member),
                        " is given away while its process is live");
    violations_.Require(!WasReplaced(member, record.incarnation()),
                        "fencing: ", Describe(member),
                        " is given back to a process that was replaced");
    replaced_[member].insert(before.incarnation());
  }
  if (record.state() != v1::Member::LIVE && was_live) {
    violations_.Require(record.lost_revision() > revision_before &&
                            record.lost_revision() <= revision_,
                        "revision: the loss of ", Describe(member), " has ",
                        record.lost_revision(), ", not in (", revision_before,
                        ", ", revision_, "]");
    lost_.push_back(member);
  }
  before = std::move(record);
}

bool StoreModel::WasLost(const MemberKey& key) const {
  return std::find(lost_.begin(), lost_.end(), key) != lost_.end();
}

const StoreModel::Job* StoreModel::FindJob(const std::string& name) const {
  const auto found = jobs_.find(name);
  return found == jobs_.end() ? nullptr : &found->second;
}

const stored::Member* StoreModel::FindMember(const MemberKey& key) const {
  const auto found = members_.find(key);
  return found == members_.end() ? nullptr : &found->second;
}

bool StoreModel::IsLive(const MemberKey& key) const {
  const stored::Member* record = FindMember(key);
  return record != nullptr && record->state() == v1::Member::LIVE;
}

bool StoreModel::IsLive(const MemberKey& key, uint64_t incarnation) const {
  return IsLive(key) && FindMember(key)->incarnation() == incarnation;
}

bool StoreModel::IsCurrent(const v1::Caller& caller) const {
  const MemberKey key = KeyOf(caller.member());
  return IsLive(key, caller.incarnation()) &&
         FindJob(key.job)->generation == caller.generation();
}

bool StoreModel::WasReplaced(const MemberKey& key, uint64_t incarnation) const {
  const auto found = replaced_.find(key);
  return found != replaced_.end() && found->second.count(incarnation) > 0;
}

}  // namespace simulation
}  // namespace shardwright
