#include "coordinator/core/clique_table.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/timeout.h"
#include "proto/plan/fingerprint.h"
#include "proto/plan/group.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

// Of the text of a failed report that the others are told.
constexpr size_t kReportBytesMax = 512;

constexpr absl::Duration kProgressPeriod = absl::Seconds(1);

// Entries of one request: many times what a member has cliques. What is asked
// for is worked off under the one lock that all wait for.
constexpr int kEntriesMax = 256;

absl::Status CheckEntryCount(absl::string_view field, int count) {
  if (count <= kEntriesMax) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "TOO_MANY_ENTRIES",
               absl::StrCat(field, " has ", count, " entries; at most ",
                            kEntriesMax, " are allowed"));
}

absl::Status LayoutMismatch(absl::string_view message,
                            std::map<std::string, std::string> metadata) {
  return Error(absl::StatusCode::kInvalidArgument, "LAYOUT_MISMATCH", message,
               std::move(metadata));
}

absl::Status CheckRequest(const v1::FormCommunicatorsRequest& request,
                          const Layout& layout) {
  RETURN_IF_ERROR(CheckEntryCount("kinds", request.kinds_size()));
  if (request.backend() != v1::GLOO && request.backend() != v1::NCCL) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_BACKEND",
                 absl::StrCat("backend is ", request.backend(),
                              "; it must be GLOO or NCCL"));
  }
  if (request.layout_digest() != layout.digest()) {
    const std::string digest = DigestText(layout.digest());
    const std::string got = DigestText(request.layout_digest());
    return LayoutMismatch(
        absl::StrCat("layout_digest is ", got, "; the layout in force has ",
                     digest),
        {{"layout_digest", digest}, {"got_layout_digest", got}});
  }
  for (const std::string& kind : request.kinds()) {
    if (FindGroupKind(kind) != nullptr) continue;
    return Error(
        absl::StatusCode::kInvalidArgument, "UNKNOWN_GROUP_KIND",
        absl::StrCat("kinds names \"", kind, "\", which is no group kind"),
        {{"kind", kind}});
  }
  return absl::OkStatus();
}

}  // namespace

CliqueTable::CliqueTable(int64_t term, const Membership& membership,
                         MissingReports& reports)
    : term_(term), membership_(membership), reports_(reports) {}

Clique& CliqueTable::Find(const JobLayout& job, v1::MemberKind kind,
                          const Group& group) {
  Clique& clique = cliques_[{job.layout->name(), kind, group.name()}];
  if (!clique.ranks.empty()) return clique;
  clique = Clique(*job.layout, kind, group);
  const auto first_attempt = first_attempts_.find(clique.job);
  if (first_attempt != first_attempts_.end()) {
    clique.attempt = first_attempt->second;
  }
  return clique;
}

// The groups whose cliques the caller wants, in creation order: the order of
// the group kinds. A rank is in one group of each kind at most.
absl::StatusOr<std::vector<GroupMembership>> CliqueTable::Wanted(
    const JobLayout& job, const MemberKey& member,
    const v1::FormCommunicatorsRequest& request) const {
  ASSIGN_OR_RETURN(const Placement placement, job.layout->Find(member.rank));
  std::vector<GroupMembership> wanted;
  for (const GroupMembership& place : GroupsOf(*job.layout, placement)) {
    const Group& group = place.group;
    if (request.kinds_size() > 0 &&
        !absl::c_linear_search(request.kinds(), group.kind->name)) {
      continue;
    }
    RETURN_IF_ERROR(Clique::CheckSize(*job.layout, group));
    RETURN_IF_ERROR(CheckBackend(group, member, request.backend()));
    wanted.push_back(place);
  }
  return wanted;
}

absl::Status CliqueTable::CheckBackend(const Group& group,
                                       const MemberKey& member,
                                       v1::CommBackend backend) const {
  const auto found = cliques_.find({member.job, member.kind, group.name()});
  if (found == cliques_.end()) return absl::OkStatus();
  const Clique& clique = found->second;
  const std::optional<int> position = clique.PositionOf(member.rank);
  // The caller's own earlier call makes way for this one.
  const bool was_here =
      position.has_value() && clique.seats[*position].stream != 0;
  if (clique.present_count == (was_here ? 1 : 0) || clique.backend == backend) {
    return absl::OkStatus();
  }
  return LayoutMismatch(
      absl::StrCat(Describe(member), " brings ", v1::CommBackend_Name(backend),
                   " to ", clique.name, ", whose other members bring ",
                   v1::CommBackend_Name(clique.backend)),
      {{"clique", clique.name},
       {"backend", v1::CommBackend_Name(clique.backend)}});
}

absl::Status CliqueTable::Form(StreamId stream, const JobLayout& job,
                               const v1::FormCommunicatorsRequest& request,
                               absl::Time now, Effects& effects) {
  RETURN_IF_ERROR(CheckRequest(request, *job.layout));
  ASSIGN_OR_RETURN(const absl::Duration timeout,
                   TimeoutFromProto(request.timeout()));
  const MemberKey member = KeyOf(request.caller().member());
  ASSIGN_OR_RETURN(const std::vector<GroupMembership> wanted,
                   Wanted(job, member, request));
  const auto earlier = call_of_member_.find(member);
  if (earlier != call_of_member_.end()) {
    const StreamId replaced = earlier->second;
    effects.End(replaced,
                Error(absl::StatusCode::kAborted, "REPLACED",
                      absl::StrCat(Describe(member), " called again")));
    Close(replaced, "called again", /*gave_up=*/false, now, effects);
  }

  Call& call = calls_[stream];
  call.member = member;
  call.timeout = timeout;
  call.deadline = now + timeout;
  for (const auto& [group, position] : wanted) {
    Clique& clique = Find(job, member.kind, group);
    if (clique.ranks.size() < 2) continue;
    call.cliques.push_back({&clique, static_cast<int>(position)});
  }
  call_of_member_[member] = stream;
  deadlines_.insert({call.deadline, stream});
  next_progress_ = std::min(next_progress_, now + kProgressPeriod);
  for (const auto& [clique, position] : call.cliques) {
    if (clique->phase == Phase::kActive &&
        clique->backend != request.backend()) {
      Abort(*clique, "PEER_FAILED",
            absl::StrCat(Describe(member), " changed its backend"), now,
            effects);
    }
    if (clique->present_count == 0 && clique->phase != Phase::kActive) {
      clique->backend = request.backend();
    }
    clique->seats[position].stream = stream;
    clique->seats[position].gave_up = false;
    ++clique->present_count;
    ++clique->version;
    if (clique->phase == Phase::kActive) {
      v1::FormCommunicatorsResponse event;
      *event.mutable_active()->mutable_attempt() = AttemptOf(*clique);
      effects.Send(
          stream, std::make_shared<const v1::FormCommunicatorsResponse>(event));
      ++call.active_count;
    } else {
      Begin(*clique, now, effects);
    }
  }
  EndIfComplete(stream, effects);
  return absl::OkStatus();
}

absl::StatusOr<CliqueTable::CliquePlace> CliqueTable::FindAttempt(
    const v1::Caller& caller, const v1::Attempt& attempt) {
  const auto found = cliques_.find(
      {caller.member().job(), caller.member().kind(), attempt.clique()});
  Clique* clique = found == cliques_.end() ? nullptr : &found->second;
  const int32_t current = clique == nullptr ? 0 : clique->attempt;
  if (clique == nullptr || clique->phase == Phase::kGathering ||
      attempt.term() != term_ || attempt.number() != current) {
    return Error(absl::StatusCode::kFailedPrecondition, "STALE_ATTEMPT",
                 absl::StrCat("attempt ", attempt.number(), " of term ",
                              attempt.term(), " at \"", attempt.clique(),
                              "\" is not running; the current one is ", current,
                              " of term ", term_),
                 {{"clique", attempt.clique()},
                  {"current_attempt", absl::StrCat(current)},
                  {"current_term", absl::StrCat(term_)}});
  }
  const std::optional<int> position =
      clique->PositionOf(caller.member().rank());
  if (!position.has_value()) {
    return Error(absl::StatusCode::kPermissionDenied, "NOT_IN_CLIQUE",
                 absl::StrCat("rank ", caller.member().rank(),
                              " takes no part in ", clique->name));
  }
  return CliquePlace{clique, *position};
}

absl::Status CliqueTable::Publish(const v1::PublishSlotsRequest& request,
                                  Effects& effects) {
  RETURN_IF_ERROR(CheckEntryCount("slots", request.slots_size()));
  // Values by place, those of this request before those that are stored.
  std::map<std::pair<Clique*, int>, const std::string*> values;
  for (const v1::Slot& slot : request.slots()) {
    ASSIGN_OR_RETURN(const CliquePlace place,
                     FindAttempt(request.caller(), slot.attempt()));
    Clique& clique = *place.clique;
    const std::string where =
        absl::StrCat("slot ", slot.index(), " of ", clique.name);
    const int64_t slot_count = clique.slots.size();
    if (slot.index() < 0 || slot.index() >= slot_count ||
        slot.value().empty() || slot.value().size() > kSlotBytesMax) {
      return Error(absl::StatusCode::kInvalidArgument, "INVALID_SLOT",
                   absl::StrCat(where, " has ", slot.value().size(),
                                " bytes; a slot has 1 to ", kSlotBytesMax,
                                ", and an index below ", slot_count));
    }
    if (clique.SlotOwner(slot.index()) != place.position) {
      return Error(absl::StatusCode::kPermissionDenied, "NOT_YOUR_SLOT",
                   absl::StrCat(where, " belongs to rank ",
                                clique.ranks[clique.SlotOwner(slot.index())]));
    }
    const std::string& stored = clique.slots[slot.index()];
    const std::string*& value = values[{&clique, slot.index()}];
    if (value == nullptr) value = stored.empty() ? &slot.value() : &stored;
    if (*value != slot.value()) {
      return Error(absl::StatusCode::kAlreadyExists, "SLOT_TAKEN",
                   absl::StrCat(where, " has other bytes already"));
    }
  }
  for (const v1::Slot& slot : request.slots()) {
    Clique& clique = *FindAttempt(request.caller(), slot.attempt())->clique;
    std::string& stored = clique.slots[slot.index()];
    if (!stored.empty()) continue;
    stored = slot.value();
    ++clique.version;
    if (++clique.published_count == static_cast<int64_t>(clique.slots.size())) {
      SendSlots(clique, effects);
    }
  }
  return absl::OkStatus();
}

absl::Status CliqueTable::Report(const v1::ReportCommunicatorsRequest& request,
                                 absl::Time now, Effects& effects) {
  RETURN_IF_ERROR(CheckEntryCount("reports", request.reports_size()));
  absl::Status first_failure = absl::OkStatus();
  for (const v1::CommunicatorReport& report : request.reports()) {
    const absl::StatusOr<CliquePlace> place =
        FindAttempt(request.caller(), report.attempt());
    if (!place.ok()) {
      first_failure.Update(place.status());
      continue;
    }
    Clique& clique = *place->clique;
    Seat& seat = clique.seats[place->position];
    if (!report.ok()) {
      BackOff(clique, now);
      Abort(clique, "PEER_FAILED",
            absl::StrCat(Describe(KeyOf(request.caller().member())), ": ",
                         CutText(report.message(), kReportBytesMax)),
            now, effects);
    } else if (clique.phase == Phase::kConnecting && !seat.reported) {
      seat.reported = true;
      ++clique.version;
      if (++clique.reported_count ==
          static_cast<int64_t>(clique.seats.size())) {
        Activate(clique, effects);
      }
    }
  }
  return first_failure;
}

void CliqueTable::EndIfComplete(StreamId stream, Effects& effects) {
  const auto it = calls_.find(stream);
  Call& call = it->second;
  if (call.active_count < call.cliques.size()) return;
  for (const auto& [clique, position] : call.cliques) {
    clique->seats[position].stream = 0;
    --clique->present_count;
    ++clique->version;
  }
  effects.End(stream, absl::OkStatus());
  effects.LogMember(
      "communicators_formed", call.member.job, call.member.rank,
      absl::StrCat(LogKind(call.member), " cliques=", call.cliques.size()));
  deadlines_.erase({call.deadline, stream});
  call_of_member_.erase(call.member);
  calls_.erase(it);
}

// Takes a call out whose stream has ended.
void CliqueTable::Close(StreamId stream, absl::string_view what, bool gave_up,
                        absl::Time now, Effects& effects) {
  const auto it = calls_.find(stream);
  const Call call = std::move(it->second);
  deadlines_.erase({call.deadline, stream});
  call_of_member_.erase(call.member);
  calls_.erase(it);
  for (const auto& [clique, position] : call.cliques) {
    clique->seats[position].stream = 0;
    clique->seats[position].gave_up = gave_up;
    --clique->present_count;
    ++clique->version;
    if (clique->phase == Phase::kActive) continue;
    Abort(*clique, "PEER_LOST", absl::StrCat(Describe(call.member), ": ", what),
          now, effects);
  }
}

void CliqueTable::StreamClosed(StreamId stream, absl::Time now,
                               Effects& effects) {
  if (calls_.count(stream) == 0) return;
  Close(stream, "its call was broken off", /*gave_up=*/false, now, effects);
}

void CliqueTable::MemberLost(const Layout& layout, const MemberKey& member,
                             const absl::Status& end, const std::string& what,
                             absl::Time now, Effects& effects) {
  const auto call = call_of_member_.find(member);
  if (call != call_of_member_.end()) {
    const StreamId stream = call->second;
    effects.End(stream, end);
    Close(stream, what, /*gave_up=*/false, now, effects);
  }
  const absl::StatusOr<Placement> placement = layout.Find(member.rank);
  if (!placement.ok()) return;
  for (const auto& [group, position] : GroupsOf(layout, *placement)) {
    const auto clique = cliques_.find({member.job, member.kind, group.name()});
    if (clique == cliques_.end()) continue;
    clique->second.seats[position].gave_up = false;
    ++clique->second.version;
    Abort(clique->second, "PEER_LOST", what, now, effects);
  }
}

void CliqueTable::LayoutChanged(const std::string& job, const absl::Status& end,
                                Effects& effects) {
  for (auto it = call_of_member_.lower_bound({job, 0, {}});
       it != call_of_member_.end() && it->first.job == job;
       it = call_of_member_.erase(it)) {
    effects.End(it->second, end);
    const auto call = calls_.find(it->second);
    deadlines_.erase({call->second.deadline, it->second});
    calls_.erase(call);
  }
  for (auto it = put_off_.begin(); it != put_off_.end();) {
    it = it->second->job == job ? put_off_.erase(it) : std::next(it);
  }
  // A number is never used again: a slot of the old layout must not fit.
  int32_t& first_attempt = first_attempts_.try_emplace(job, 1).first->second;
  for (auto it = cliques_.lower_bound({job, {}, ""});
       it != cliques_.end() && std::get<0>(it->first) == job;
       it = cliques_.erase(it)) {
    first_attempt = std::max(first_attempt, it->second.attempt + 1);
  }
}

}  // namespace shardwright
