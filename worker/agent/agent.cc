#include "worker/agent/agent.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/time/proto_time.h"
#include "spdlog/spdlog.h"
#include "worker/agent/formation.h"

namespace shardwright {
namespace {

// How often to look whether a communicator has ended by itself.
constexpr absl::Duration kPollPeriod = absl::Seconds(1);

// After a call that failed for no reason that waiting would cure.
constexpr absl::Duration kRetryPause = absl::Milliseconds(500);

absl::Status Ended(const std::string& reason, const std::string& message) {
  return Error(absl::StatusCode::kAborted, reason, message);
}

void LogSessionEnd(const absl::Status& why) {
  spdlog::warn("event=session_ended reason={} message=\"{}\"", ReasonOf(why),
               std::string(why.message()));
}

}  // namespace

Agent::Agent(CoordinatorClient client, CommunicatorFactory& factory,
             AgentOptions options)
    : client_(std::move(client)),
      factory_(factory),
      options_(std::move(options)) {}

Agent::~Agent() { Stop(); }

void Agent::Start(const std::string& address) {
  const MutexLock lock(mutex_);
  options_.facts.set_address(address);
  LeaseKeeper::Options lease;
  *lease.registration.mutable_member() = options_.member;
  *lease.registration.mutable_facts() = options_.facts;
  lease.registration.set_incarnation(options_.incarnation);
  lease.waits_for_layout = true;
  keeper_ = std::make_unique<LeaseKeeper>(client_, std::move(lease),
                                          static_cast<LeaseListener&>(*this));
  thread_ = std::thread([this] { Run(); });
}

void Agent::Stop() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    WakeLocked();
  }
  cliques_.Close(Ended("PEER_LOST", "this worker stops"));
  if (!thread_.joinable()) return;
  thread_.join();
  v1::LeaveRequest request;
  *request.mutable_caller() = keeper_->caller();
  bool registered = false;
  std::unique_ptr<LeaseKeeper> keeper;
  {
    const MutexLock lock(mutex_);
    registered = registered_ && fatal_.ok();
    keeper.swap(keeper_);
  }
  keeper = nullptr;
  if (registered) {
    const absl::Status left = client_.Leave(request).status();
    spdlog::info("event=left message=\"{}\"", std::string(left.message()));
  }
}

absl::Status Agent::Wait() {
  MutexLock lock(mutex_);
  while (!stopping_ && fatal_.ok()) changed_.Wait(lock);
  return fatal_;
}

void Agent::WakeLocked() {
  interrupt_ = true;
  canceller_.Cancel();
  changed_.NotifyAll();
}

v1::WorkerDescription Agent::Describe() const {
  v1::WorkerDescription description;
  {
    const MutexLock lock(mutex_);
    *description.mutable_member() = options_.member;
    *description.mutable_facts() = options_.facts;
    description.set_generation(generation_);
    if (keeper_ != nullptr) description.set_phase(keeper_->phase());
  }
  for (const CliqueTable::Clique& clique : cliques_.List()) {
    v1::CliqueDescription& entry = *description.add_cliques();
    entry.set_name(clique.spec.name);
    entry.set_attempt(clique.attempt.number());
    entry.mutable_ranks()->Assign(clique.spec.ranks.begin(),
                                  clique.spec.ranks.end());
    entry.set_state(v1::CliqueSummary::State_Name(clique.state));
  }
  return description;
}

void Agent::OnRegistered(const v1::RegisterResponse& grant) {
  const absl::Duration lease = FromProto(grant.lease_ttl());
  spdlog::info("event=registered generation={} term={} lease={}",
               grant.generation(), grant.term(), absl::FormatDuration(lease));
  const MutexLock lock(mutex_);
  registered_ = true;
  check_layout_ = true;
  pause_ = absl::ZeroDuration();
  last_refusal_.clear();
  if (grant.generation() != generation_) WakeLocked();
  generation_ = grant.generation();
  changed_.NotifyAll();
}

void Agent::OnRefused(const absl::Status& why, absl::Duration retry_in) {
  const std::string refusal =
      absl::StrCat(ReasonOf(why), static_cast<int>(why.code()));
  const MutexLock lock(mutex_);
  if (refusal == last_refusal_) return;
  last_refusal_ = refusal;
  spdlog::warn("event=register_refused reason={} retry_in={} message=\"{}\"",
               ReasonOf(why), absl::FormatDuration(retry_in),
               std::string(why.message()));
}

void Agent::OnNews(int64_t generation,
                   const std::vector<v1::LostMember>& lost) {
  // Kept until all are aborted: to destroy one may have to wait until the GPU
  // has ended what another's lost member holds up.
  std::vector<CliqueTable::Clique> aborted;
  for (const v1::LostMember& lost_member : lost) {
    const v1::MemberId& member = lost_member.member();
    if (member.kind() != options_.member.kind()) continue;
    const absl::Status why =
        PeerLost("this clique", {member.rank()}, lost_member.why());
    // Peers have been told of this member's own loss too.
    std::vector<CliqueTable::Clique> cliques =
        member.rank() == options_.member.rank()
            ? cliques_.AbortAll(why)
            : cliques_.AbortWithRank(member.rank(), why);
    spdlog::warn("event=peer_lost rank={} why=\"{}\" aborted_cliques={}",
                 member.rank(), lost_member.why(), cliques.size());
    std::move(cliques.begin(), cliques.end(), std::back_inserter(aborted));
  }
  const MutexLock lock(mutex_);
  const bool is_new = generation != generation_;
  generation_ = generation;
  if (is_new || !aborted.empty()) WakeLocked();
}

void Agent::OnDisconnected(const absl::Status& why) {
  LogSessionEnd(why);
  const MutexLock lock(mutex_);
  registered_ = false;
}

void Agent::OnLeaseLost(const absl::Status& why) {
  LogSessionEnd(why);
  cliques_.AbortAll(Ended("PEER_LOST", "this worker's lease has expired"));
  const MutexLock lock(mutex_);
  registered_ = false;
  WakeLocked();
}

void Agent::OnFatal(const absl::Status& why) {
  spdlog::error("event=membership_refused reason={} message=\"{}\"",
                ReasonOf(why), std::string(why.message()));
  const MutexLock lock(mutex_);
  fatal_ = why;
  stopping_ = true;
  WakeLocked();
}

void Agent::Run() {
  while (WaitForWork()) {
    absl::Status status = LearnIdentity();
    if (status.ok()) {
      ReportEnded();
      Form();
      continue;
    }
    spdlog::warn("event=layout_unknown reason={} message=\"{}\"",
                 ReasonOf(status), std::string(status.message()));
    const MutexLock lock(mutex_);
    pause_ = kRetryPause;
  }
}

bool Agent::WaitForWork() {
  MutexLock lock(mutex_);
  if (pause_ > absl::ZeroDuration()) {
    changed_.WaitFor(
        lock, pause_,
        [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_; });
    pause_ = absl::ZeroDuration();
  }
  while (!stopping_) {
    if (registered_ &&
        (interrupt_ || check_layout_ || learned_generation_ != generation_ ||
         cliques_.HasEnded() || !cliques_.InactiveKinds().empty())) {
      interrupt_ = false;
      canceller_ = CallCanceller();
      return true;
    }
    changed_.WaitFor(lock, kPollPeriod);
  }
  return false;
}

absl::Status Agent::LearnIdentity() {
  {
    const MutexLock lock(mutex_);
    if (!check_layout_ && learned_generation_ == generation_) {
      return absl::OkStatus();
    }
  }
  v1::GetLayoutRequest layout_request;
  layout_request.set_job(options_.member.job());
  v1::ExplainRankRequest rank_request;
  rank_request.set_job(options_.member.job());
  rank_request.set_rank(options_.member.rank());
  ASSIGN_OR_RETURN(const v1::GetLayoutResponse layout,
                   client_.GetLayout(layout_request));
  ASSIGN_OR_RETURN(const v1::RankExplanation rank,
                   client_.ExplainRank(rank_request));
  if (layout.generation() != rank.generation()) {
    return Error(absl::StatusCode::kAborted, "STALE_GENERATION",
                 absl::StrCat("the layout changed from generation ",
                              layout.generation(), " to ", rank.generation()));
  }
  {
    const MutexLock lock(mutex_);
    check_layout_ = false;
    if (layout.generation() == learned_generation_ &&
        layout.digest() == layout_digest_) {
      return absl::OkStatus();
    }
  }
  std::vector<CliqueSpec> cliques;
  for (const v1::GroupMembership& group : rank.groups()) {
    if (!options_.kinds.empty() &&
        std::find(options_.kinds.begin(), options_.kinds.end(), group.kind()) ==
            options_.kinds.end()) {
      continue;
    }
    // Backward, the ranks of an encoder's lane share what the bridge brought.
    const bool carries_rows =
        group.kind() == "bridge" ||
        (group.kind() == "tp_cp" && rank.role() == v1::ENCODER);
    cliques.push_back(
        {NameOf(rank, group), group.kind(), RanksOf(group), carries_rows});
  }
  cliques_.Reset(cliques, Ended("STALE_GENERATION", "the layout has changed"));
  const v1::Coordinates& at = rank.coordinates();
  spdlog::info(
      "event=identity generation={} module={} role={} tp={} cp={} "
      "dp={} pp={} lane={} cliques={}",
      rank.generation(), rank.module(), v1::Role_Name(rank.role()), at.tp(),
      at.cp(), at.dp(), at.pp(), at.lane(), cliques.size());
  const MutexLock lock(mutex_);
  generation_ = std::max(generation_, rank.generation());
  learned_generation_ = rank.generation();
  layout_digest_ = layout.digest();
  return absl::OkStatus();
}

// The coordinator still counts these attempts as active, and would not begin
// another one.
void Agent::ReportEnded() {
  v1::ReportCommunicatorsRequest request;
  *request.mutable_caller() = keeper_->caller();
  for (const CliqueTable::Clique& clique : cliques_.CollectEnded()) {
    spdlog::warn("event=clique_ended clique={} attempt={} message=\"{}\"",
                 clique.spec.name, clique.attempt.number(),
                 std::string(clique.why.message()));
    v1::CommunicatorReport& report = *request.add_reports();
    *report.mutable_attempt() = clique.attempt;
    report.set_message(std::string(clique.why.message()));
    // One at a time: a peer may have reported the same, and a stale report
    // keeps those behind it from being taken.
    (void)client_.ReportCommunicators(request);
    request.clear_reports();
  }
}

void Agent::Form() {
  v1::FormCommunicatorsRequest request;
  request.set_backend(factory_.backend() == "nccl" ? v1::NCCL : v1::GLOO);
  for (const std::string& kind : cliques_.InactiveKinds()) {
    request.add_kinds(kind);
  }
  if (request.kinds().empty()) {
    keeper_->SetPhase("ready");
    return;
  }
  request.mutable_timeout()->set_seconds(
      absl::ToInt64Seconds(options_.form_timeout));
  CallCanceller canceller;
  {
    const MutexLock lock(mutex_);
    request.set_layout_digest(layout_digest_);
    canceller = canceller_;
  }
  keeper_->SetPhase("forming");
  cliques_.SetInactive(v1::CliqueSummary::GATHERING);
  Formation formation(client_, factory_, cliques_, keeper_->caller(),
                      options_.check_cliques);
  const absl::Status formed = formation.Run(
      request, [this](const v1::Waiting& waiting) { OnWaiting(waiting); },
      [this] { return !cliques_.HasEnded(); }, canceller);
  cliques_.SetInactive(v1::CliqueSummary::IDLE);
  OnFormed(formed);
}

void Agent::OnWaiting(const v1::Waiting& waiting) {
  keeper_->SetPhase(absl::StrCat("forming ", waiting.attempt().clique()));
  std::string last_seen;
  for (const std::string& line : waiting.last_seen()) {
    absl::StrAppend(&last_seen, last_seen.empty() ? "" : "; ", line);
  }
  spdlog::info(
      "event=waiting clique={} attempt={} missing={} present={}/{} "
      "active_cliques={}/{} last_seen=\"{}\"",
      waiting.attempt().clique(), waiting.attempt().number(),
      waiting.missing().ranges(), waiting.present_count(),
      waiting.member_count(), waiting.active_clique_count(),
      waiting.clique_count(), last_seen);
}

void Agent::OnFormed(const absl::Status& status) {
  if (status.ok() && cliques_.InactiveKinds().empty()) {
    keeper_->SetPhase("ready");
    spdlog::info("event=formed");
  }
  // What is inactive all the same has ended since, as another event says.
  if (status.ok() || absl::IsCancelled(status)) return;
  const v1::ErrorDetail detail = DetailOf(status);
  const MutexLock lock(mutex_);
  if (detail.reason() == "MEMBERS_MISSING") {
    spdlog::warn("event=members_missing missing={} message=\"{}\"",
                 detail.missing().ranges(), std::string(status.message()));
    return;
  }
  spdlog::warn("event=form_failed reason={} message=\"{}\"", detail.reason(),
               std::string(status.message()));
  pause_ = kRetryPause;
  // The layout that was formed by may not be the one in force.
  if (detail.reason() == "LAYOUT_MISMATCH") check_layout_ = true;
}

}  // namespace shardwright
