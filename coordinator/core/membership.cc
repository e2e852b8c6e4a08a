#include "coordinator/core/membership.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/plan/fingerprint.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

constexpr absl::string_view kKeyPrefix = "member/";
constexpr char kRevisionKey[] = "revision";
constexpr int kReplacedIncarnationsMax = 16;
constexpr size_t kFactBytesMax = 255;
constexpr size_t kPhaseBytesMax = 64;
constexpr absl::Duration kStoreRetryPeriod = absl::Seconds(1);

std::string StoreKey(const MemberKey& key) {
  return absl::StrCat(kKeyPrefix, key.job, "/", key.rank, "/",
                      static_cast<int>(key.kind));
}

absl::Status InvalidMember(absl::string_view message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_MEMBER", message);
}

absl::Status NotRegistered(absl::string_view message) {
  return Error(absl::StatusCode::kFailedPrecondition, "NOT_REGISTERED",
               message);
}

bool WasReplaced(const stored::Member& record, uint64_t incarnation) {
  return absl::c_linear_search(record.replaced_incarnations(), incarnation);
}

}  // namespace

absl::Status Membership::Fenced(const MemberKey& key,
                                const stored::Member& holder) {
  return Error(absl::StatusCode::kAborted, "FENCED",
               absl::StrCat("a later process has taken ", Describe(key),
                            " of job ", key.job, ": ", Place(holder.facts())),
               {{"holder_host", holder.facts().host()},
                {"holder_pid", absl::StrCat(holder.facts().pid())},
                {"holder_incarnation", absl::StrCat(holder.incarnation())}});
}

Membership::Membership(StateStore& store, const LayoutTable& layouts,
                       Admission& admission, int64_t term,
                       absl::Duration lease_ttl)
    : store_(store),
      layouts_(layouts),
      admission_(admission),
      term_(term),
      lease_ttl_(lease_ttl) {}

absl::Status Membership::Load(const StateStore::Entries& entries,
                              absl::Time now) {
  for (const auto& [store_key, value] : entries) {
    if (store_key == kRevisionKey && absl::SimpleAtoi(value, &revision_)) {
      continue;
    }
    const bool is_member = absl::StartsWith(store_key, kKeyPrefix);
    if (!is_member && store_key != kRevisionKey) continue;
    stored::Member record;
    if (!is_member || !record.ParseFromString(value) ||
        layouts_.Find(record.member().job()) == nullptr) {
      return Error(absl::StatusCode::kDataLoss, "STORE_UNREADABLE",
                   absl::StrCat("stored entry ", store_key,
                                " cannot be read, or its job has no layout"));
    }
    const MemberKey key = KeyOf(record.member());
    Job& job = jobs_[key.job];
    MemberState& member = job.members[{key.rank, key.kind}];
    member.record = std::move(record);
    if (member.record.lost_revision() > 0) {
      job.losses[member.record.lost_revision()] = {key.rank, key.kind};
    }
    if (member.record.state() == v1::Member::LIVE) {
      ++job.live_count;
      job.nccl.Add({key.rank, key.kind}, member.record.facts());
      Grant(key, member, now);
    }
  }
  return absl::OkStatus();
}

const Membership::MemberState* Membership::Find(const MemberKey& key) const {
  const auto job = jobs_.find(key.job);
  if (job == jobs_.end()) return nullptr;
  const auto member = job->second.members.find({key.rank, key.kind});
  return member == job->second.members.end() ? nullptr : &member->second;
}

Membership::MemberState* Membership::Find(const MemberKey& key) {
  return const_cast<MemberState*>(std::as_const(*this).Find(key));
}

absl::Status Membership::Check(const v1::Caller& caller) const {
  const MemberKey key = KeyOf(caller.member());
  const MemberState* member = Find(key);
  const bool live =
      member != nullptr && member->record.state() == v1::Member::LIVE;
  if (member != nullptr &&
      member->record.incarnation() != caller.incarnation() &&
      (live || WasReplaced(member->record, caller.incarnation()))) {
    return Fenced(key, member->record);
  }
  if (!live) {
    return NotRegistered(absl::StrCat(
        Describe(key), " of job \"", key.job, "\" is not registered",
        member == nullptr ? "" : ", its lease has ended", "; register again"));
  }
  return absl::OkStatus();
}

absl::Status Membership::CheckRegistration(
    const v1::RegisterRequest& request) const {
  const MemberKey key = KeyOf(request.member());
  const v1::MemberFacts& facts = request.facts();
  if (key.kind != v1::TRAINER && key.kind != v1::WORKER) {
    return InvalidMember(absl::StrCat("member.kind is ", key.kind,
                                      "; it must be TRAINER or WORKER"));
  }
  if (request.incarnation() == 0) {
    return InvalidMember("incarnation is 0; it must be a random number");
  }
  const std::pair<absl::string_view, absl::string_view> texts[] = {
      {"facts.host", facts.host()},
      {"facts.address", facts.address()},
      {"facts.device", facts.device()},
      {"facts.comm_backend", facts.comm_backend()},
      {"facts.nccl_version", facts.nccl_version()},
      {"facts.nccl_address", facts.nccl_address()}};
  for (const auto& [field, text] : texts) {
    if (text.size() > kFactBytesMax) {
      return InvalidMember(absl::StrCat(field, " has ", text.size(),
                                        " bytes; at most ", kFactBytesMax,
                                        " are allowed"));
    }
  }
  if (facts.nccl_comm_id_set()) {
    return Error(
        absl::StatusCode::kInvalidArgument, "NCCL_COMM_ID_SET",
        absl::StrCat("facts.nccl_comm_id_set: every clique of ", Describe(key),
                     " would meet at one address; "
                     "unset NCCL_COMM_ID"));
  }
  ASSIGN_OR_RETURN(const JobLayout job, layouts_.Get(key.job));
  if (!job.layout->Find(key.rank).ok()) {
    return Error(
        absl::StatusCode::kInvalidArgument, "RANK_NOT_IN_LAYOUT",
        absl::StrCat("job ", key.job, " has ranks 0 to ",
                     job.layout->world_size() - 1, ", and no rank ", key.rank),
        {{"world_size", absl::StrCat(job.layout->world_size())}});
  }
  return absl::OkStatus();
}

// Who is in the way, and for how long if it is dead: metadata of an error.
std::map<std::string, std::string> Membership::HolderOf(
    const MemberState& holder, absl::Time now) const {
  const stored::Member& record = holder.record;
  const int64_t remaining_ms =
      std::max<int64_t>(1, absl::ToInt64Milliseconds(holder.expire_time - now));
  return {{"holder_host", record.facts().host()},
          {"holder_pid", absl::StrCat(record.facts().pid())},
          {"holder_incarnation", absl::StrCat(record.incarnation())},
          {"lease_remaining_ms", absl::StrCat(remaining_ms)},
          {"term", absl::StrCat(term_)}};
}

// Whether another process than `holder` may take its rank.
absl::Status Membership::CheckFree(const MemberKey& key,
                                   const MemberState& holder,
                                   uint64_t incarnation, absl::Time now) const {
  const stored::Member& record = holder.record;
  if (WasReplaced(record, incarnation)) return Fenced(key, record);
  if (record.state() != v1::Member::LIVE) return absl::OkStatus();
  const std::map<std::string, std::string> metadata = HolderOf(holder, now);
  return Error(absl::StatusCode::kAlreadyExists, "MEMBER_ID_IN_USE",
               absl::StrCat(Describe(key), " of job ", key.job,
                            " is a live process already: ",
                            Place(record.facts()), "; its lease has ",
                            metadata.at("lease_remaining_ms"), " ms left"),
               metadata);
}

// Whether NCCL will form cliques of this member and those that are live.
absl::Status Membership::CheckNccl(const MemberKey& key,
                                   const v1::MemberFacts& facts,
                                   absl::Time now) const {
  const auto job = jobs_.find(key.job);
  if (job == jobs_.end()) return absl::OkStatus();
  const auto conflict = job->second.nccl.Find({key.rank, key.kind}, facts);
  if (!conflict.has_value()) return absl::OkStatus();
  const MemberKey other = {key.job, conflict->other.first,
                           conflict->other.second};
  const MemberState& holder = *Find(other);
  return Error(
      conflict->code, conflict->reason,
      absl::StrCat(Describe(key), ": ", conflict->message, Describe(other),
                   ", ", Place(holder.record.facts())),
      HolderOf(holder, now));
}

absl::StatusOr<v1::RegisterResponse> Membership::Register(
    const v1::RegisterRequest& request, absl::Time now, Effects& effects) {
  RETURN_IF_ERROR(CheckRegistration(request));
  const MemberKey key = KeyOf(request.member());
  MemberState* member = Find(key);
  stored::Member record;
  if (member != nullptr) record = member->record;
  if (member != nullptr && record.incarnation() != request.incarnation()) {
    RETURN_IF_ERROR(CheckFree(key, *member, request.incarnation(), now));
    record.add_replaced_incarnations(record.incarnation());
    if (record.replaced_incarnations_size() > kReplacedIncarnationsMax) {
      record.mutable_replaced_incarnations()->erase(
          record.replaced_incarnations().begin());
    }
  }
  RETURN_IF_ERROR(CheckNccl(key, request.facts(), now));
  *record.mutable_member() = request.member();
  record.set_incarnation(request.incarnation());
  *record.mutable_facts() = request.facts();
  record.set_state(v1::Member::LIVE);

  const std::string value = record.SerializeAsString();
  if (member == nullptr || value != member->record.SerializeAsString()) {
    RETURN_IF_ERROR(admission_.Admit(now));
    RETURN_IF_ERROR(store_.Commit({{StoreKey(key), value}}));
    effects.LogMember(
        "member_registered", key.job, key.rank, LogKind(key),
        absl::StrCat("incarnation=", DigestText(request.incarnation()),
                     " host=", absl::CEscape(request.facts().host()),
                     " pid=", request.facts().pid()));
  }
  Job& job = jobs_[key.job];
  if (member == nullptr) member = &job.members[{key.rank, key.kind}];
  if (member->record.state() != v1::Member::LIVE) ++job.live_count;
  if (member->record.incarnation() != request.incarnation()) {
    member->phase.clear();
  }
  const NcclRoster::Seat seat = {key.rank, key.kind};
  job.nccl.Remove(seat, member->record.facts());
  job.nccl.Add(seat, record.facts());
  member->record = std::move(record);
  member->last_seen = now;
  Grant(key, *member, now);
  return RegisterAnswer(key);
}

v1::RegisterResponse Membership::RegisterAnswer(const MemberKey& key) const {
  v1::RegisterResponse response;
  response.set_generation(layouts_.Find(key.job)->generation());
  response.set_term(term_);
  *response.mutable_lease_ttl() = shardwright::ToProto(lease_ttl_);
  *response.mutable_renew_period() = shardwright::ToProto(lease_ttl_ / 3);
  response.set_revision(revision_);
  return response;
}

// One more lease.
void Membership::Grant(const MemberKey& key, MemberState& member,
                       absl::Time now) {
  leases_.erase({member.expire_time, key});
  member.expire_time = now + lease_ttl_;
  leases_.insert({member.expire_time, key});
}

absl::Status Membership::Session(StreamId stream,
                                 const v1::SessionRequest& request,
                                 absl::Time now, Effects& effects) {
  RETURN_IF_ERROR(Check(request.caller()));
  const MemberKey key = KeyOf(request.caller().member());
  if (request.phase().size() > kPhaseBytesMax) {
    return InvalidMember(absl::StrCat("phase has ", request.phase().size(),
                                      " bytes; at most ", kPhaseBytesMax,
                                      " are allowed"));
  }
  MemberState& member = *Find(key);
  const auto [opened, is_first] = sessions_.insert({stream, key});
  if (!(opened->second == key)) {
    return InvalidMember(absl::StrCat("a session of ", Describe(opened->second),
                                      " cannot speak for ", Describe(key)));
  }
  if (is_first) {
    if (member.session != 0) {
      sessions_.erase(member.session);
      effects.End(
          member.session,
          Error(absl::StatusCode::kAborted, "REPLACED",
                absl::StrCat(Describe(key), " opened another session")));
    }
    member.session = stream;
    // A caller that is ahead of this store has seen one that is gone.
    member.told_revision =
        std::clamp<int64_t>(request.revision(), 0, revision_);
  }
  member.phase = request.phase();
  member.last_seen = now;
  Grant(key, member, now);
  AnswerSession(key, member, effects);
  return absl::OkStatus();
}

void Membership::AnswerSession(const MemberKey& key, MemberState& member,
                               Effects& effects) {
  effects.Send(member.session, std::make_shared<const v1::SessionResponse>(
                                   NewsSince(key.job, member.told_revision)));
  member.told_revision = revision_;
}

v1::SessionResponse Membership::NewsSince(const std::string& name,
                                          int64_t revision) const {
  v1::SessionResponse response;
  response.set_generation(layouts_.Find(name)->generation());
  response.set_term(term_);
  response.set_revision(revision_);
  const Job& job = jobs_.at(name);
  for (auto loss = job.losses.upper_bound(revision); loss != job.losses.end();
       ++loss) {
    const stored::Member& record = job.members.at(loss->second).record;
    v1::LostMember& lost = *response.add_lost_members();
    *lost.mutable_member() = record.member();
    lost.set_why(record.lost_why());
  }
  return response;
}

void Membership::StreamClosed(StreamId stream) {
  const auto session = sessions_.find(stream);
  if (session == sessions_.end()) return;
  Find(session->second)->session = 0;
  sessions_.erase(session);
}

absl::StatusOr<std::vector<Membership::Loss>> Membership::End(
    const std::vector<MemberKey>& members, v1::Member::State state,
    const std::string& why, StateStore::Entries entries, Effects& effects) {
  int64_t revision = revision_;
  std::vector<stored::Member> records;
  for (const MemberKey& key : members) {
    stored::Member& record = records.emplace_back(Find(key)->record);
    record.set_state(state);
    record.set_lost_revision(++revision);
    record.set_lost_why(why);
    entries[StoreKey(key)] = record.SerializeAsString();
  }
  if (!members.empty()) entries[kRevisionKey] = absl::StrCat(revision);
  RETURN_IF_ERROR(store_.Commit(entries));
  revision_ = revision;

  std::vector<Loss> losses;
  for (size_t i = 0; i < members.size(); ++i) {
    const MemberKey& key = members[i];
    Job& job = jobs_.at(key.job);
    MemberState& member = *Find(key);
    job.losses.erase(member.record.lost_revision());
    job.nccl.Remove({key.rank, key.kind}, member.record.facts());
    member.record = std::move(records[i]);
    job.losses[member.record.lost_revision()] = {key.rank, key.kind};
    --job.live_count;
    leases_.erase({member.expire_time, key});
    losses.push_back(
        {key,
         absl::StrCat(Describe(key), " on ", Place(member.record.facts()), ": ",
                      why),
         NotRegistered(absl::StrCat(Describe(key), " of job ", key.job,
                                    " is no member: ", why))});
    if (member.session != 0) {
      effects.End(member.session, losses.back().end);
      sessions_.erase(member.session);
      member.session = 0;
    }
    effects.LogMember(
        "member_lost", key.job, key.rank,
        absl::StrCat(LogKind(key), " why=\"", why, "\""),
        absl::StrCat("incarnation=", DigestText(member.record.incarnation()),
                     " revision=", member.record.lost_revision()));
  }
  return losses;
}

absl::StatusOr<std::vector<Membership::Loss>> Membership::Leave(
    const v1::LeaveRequest& request, Effects& effects) {
  const absl::Status check = Check(request.caller());
  if (ReasonOf(check) == "NOT_REGISTERED") return std::vector<Loss>();
  RETURN_IF_ERROR(check);
  return End({KeyOf(request.caller().member())}, v1::Member::LEFT, "left", {},
             effects);
}

std::vector<Membership::Loss> Membership::Expire(absl::Time now,
                                                 Effects& effects) {
  if (now < NextExpiry()) return {};
  std::vector<MemberKey> expired;
  for (const auto& [time, key] : leases_) {
    if (time > now) break;
    expired.push_back(key);
  }
  absl::StatusOr<std::vector<Loss>> losses =
      End(expired, v1::Member::LOST, "lease expired", {}, effects);
  if (losses.ok()) return *std::move(losses);
  effects.Log("store_failed", "",
              absl::StrCat("doing=expire_leases error=\"",
                           losses.status().message(), "\""));
  retry_time_ = now + kStoreRetryPeriod;
  return {};
}

absl::Time Membership::NextExpiry() const {
  if (leases_.empty()) return absl::InfiniteFuture();
  return std::max(leases_.begin()->first, retry_time_);
}

void Membership::PushNews(const std::string& name, Effects& effects) {
  const auto job = jobs_.find(name);
  if (job == jobs_.end()) return;
  // Most sessions have seen the same, and share one message.
  std::map<int64_t, std::shared_ptr<const v1::SessionResponse>> by_revision;
  for (auto& [seat, member] : job->second.members) {
    if (member.session == 0) continue;
    auto& news = by_revision[member.told_revision];
    if (news == nullptr) {
      news = std::make_shared<const v1::SessionResponse>(
          NewsSince(name, member.told_revision));
    }
    effects.Send(member.session, news);
    member.told_revision = revision_;
  }
}

std::vector<MemberKey> Membership::NotIn(const std::string& name,
                                         const Layout& layout) const {
  std::vector<MemberKey> members;
  const auto job = jobs_.find(name);
  if (job == jobs_.end()) return members;
  for (auto it = job->second.members.lower_bound(
           {layout.world_size(), v1::MEMBER_KIND_UNSPECIFIED});
       it != job->second.members.end(); ++it) {
    if (it->second.record.state() != v1::Member::LIVE) continue;
    members.push_back({name, it->first.first, it->first.second});
  }
  return members;
}

int64_t Membership::LiveCount(const std::string& job) const {
  const auto it = jobs_.find(job);
  return it == jobs_.end() ? 0 : it->second.live_count;
}

}  // namespace shardwright
