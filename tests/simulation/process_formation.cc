// How a process forms its communicators: worker/agent/agent.cc and
// formation.cc.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/plan/group.h"
#include "proto/status/error.h"
#include "tests/simulation/process.h"

namespace shardwright {
namespace simulation {
namespace {

constexpr absl::Duration kRetryPause = absl::Milliseconds(500);

bool SameAttempt(const v1::Attempt& a, const v1::Attempt& b) {
  return a.clique() == b.clique() && a.term() == b.term() &&
         a.number() == b.number();
}

}  // namespace

// What is being formed is of no use any more, or not enough.
void Process::Interrupt() {
  EndForm();
  After(absl::Milliseconds(1), [this] { Work(); });
}

void Process::Work() {
  if (!registered_ || form_ != nullptr || learning_) return;
  if (!check_layout_ && learned_generation_ == generation_) return Form();
  learning_ = true;
  world_.network.GetLayout(
      link_, seat_.job,
      [this, self = shared_from_this()](const absl::StatusOr<JobLayout>& job) {
        // Not `self`: a paused process would keep itself in its backlog.
        Guard([this, job] { LearnIdentity(job); })();
      });
}

void Process::LearnIdentity(const absl::StatusOr<JobLayout>& job) {
  learning_ = false;
  const absl::StatusOr<Placement> placement =
      job.ok() ? job->layout->Find(seat_.rank) : job.status();
  if (!placement.ok()) {
    After(kRetryPause, [this] { Work(); });
    return;
  }
  check_layout_ = false;
  generation_ = std::max(generation_, job->generation());
  if (learned_generation_ == job->generation()) return Work();
  learned_generation_ = job->generation();
  layout_digest_ = job->layout->digest();
  EndActive([](const Clique&) { return true; }, /*report=*/false);
  cliques_.clear();
  module_ = placement->module->name();
  for (const auto& [group, position] : GroupsOf(*job->layout, *placement)) {
    const std::string kind(group.kind->name);
    if (!kinds_.empty() &&
        std::count(kinds_.begin(), kinds_.end(), kind) == 0) {
      continue;
    }
    std::vector<Rank> ranks = RanksOf(*job->layout, group);
    if (ranks.size() < 2) continue;
    Clique& clique = cliques_[group.name()];
    clique.kind = kind;
    clique.ranks = std::move(ranks);
  }
  Work();
}

void Process::Form() {
  v1::FormCommunicatorsRequest request;
  for (const auto& [name, clique] : cliques_) {
    if (!clique.active.has_value()) request.add_kinds(clique.kind);
  }
  if (request.kinds().empty()) return;
  *request.mutable_caller() = Caller();
  const bool wrong_backend = world_.random.Chance(world_.options.wrong_backend);
  const bool nccl = (backend_ == v1::NCCL) != wrong_backend;
  request.set_backend(nccl ? v1::NCCL : v1::GLOO);
  const bool wrong_digest = world_.random.Chance(world_.options.wrong_digest);
  request.set_layout_digest(layout_digest_ + (wrong_digest ? 1 : 0));
  const int64_t timeout_ms =
      1000 + world_.random.Below(
                 absl::ToInt64Milliseconds(world_.options.form_timeout_max));
  request.mutable_timeout()->set_seconds(timeout_ms / 1000);
  request.mutable_timeout()->set_nanos(timeout_ms % 1000 * 1000000);
  form_ = Open(
      request,
      [this](const StreamEffect& effect) {
        OnEvent(
            **std::get_if<std::shared_ptr<const v1::FormCommunicatorsResponse>>(
                &effect.what));
      },
      [this](const absl::Status& status) { OnFormEnd(status); });
}

// Attempts that have not become active are of no use without the call.
void Process::EndForm() {
  if (form_ == nullptr) return;
  world_.network.Close(form_);
  form_ = nullptr;
  for (const auto& [name, attempt] : tries_) {
    world_.close_communicator(seat_, attempt.attempt);
  }
  tries_.clear();
}

void Process::OnFormEnd(const absl::Status& status) {
  EndForm();
  const std::string reason = ReasonOf(status);
  if (reason == "LAYOUT_MISMATCH") check_layout_ = true;
  const bool at_once = status.ok() || reason == "MEMBERS_MISSING";
  After(at_once ? absl::Milliseconds(1) : kRetryPause, [this] { Work(); });
}

void Process::OnEvent(const v1::FormCommunicatorsResponse& event) {
  if (form_ == nullptr) return;  // Interrupted meanwhile.
  if (event.has_go()) {
    OnGo(event.go());
  } else if (event.has_slots()) {
    OnSlots(event.slots().attempt());
  } else if (event.has_active()) {
    OnActive(event.active().attempt());
  } else if (event.has_aborted()) {
    OnAborted(event.aborted().attempt());
  }
}

Process::Try* Process::FindTry(const v1::Attempt& attempt) {
  const auto found = tries_.find(attempt.clique());
  if (found == tries_.end() || !SameAttempt(found->second.attempt, attempt)) {
    return nullptr;
  }
  return &found->second;
}

void Process::OnGo(const v1::Go& go) {
  const v1::Attempt& attempt = go.attempt();
  const auto clique = cliques_.find(attempt.clique());
  if (clique == cliques_.end() ||
      clique->second.ranks !=
          std::vector<Rank>(go.ranks().begin(), go.ranks().end())) {
    return Report(attempt, false);
  }
  Try& begun = tries_[attempt.clique()];
  begun = Try();
  begun.attempt = attempt;
  v1::PublishSlotsRequest request;
  *request.mutable_caller() = Caller();
  for (const int32_t index : go.slot_indexes()) {
    v1::Slot& slot = *request.add_slots();
    *slot.mutable_attempt() = attempt;
    slot.set_index(index);
    slot.set_value(absl::StrCat(attempt.clique(), " ", attempt.term(), " ",
                                attempt.number(), " ", index, " ",
                                absl::Hex(incarnation_)));
  }
  if (request.slots().empty()) return;
  Publish(request, /*tries_left=*/5);
  if (!world_.random.Chance(world_.options.wrong_slot)) return;
  v1::Slot& slot = *request.mutable_slots(0);
  if (world_.random.Chance(0.5)) {
    slot.set_value("other bytes");
  } else {
    slot.set_index(slot.index() + 1);
  }
  Publish(request, /*tries_left=*/0);
}

void Process::Publish(const v1::PublishSlotsRequest& request, int tries_left) {
  Call(request, [=](const Step& step) {
    if (!absl::IsUnavailable(step.status) || tries_left == 0 ||
        FindTry(request.slots(0).attempt()) == nullptr) {
      return;
    }
    After(Backoff(), [=] { Publish(request, tries_left - 1); });
  });
}

void Process::Report(const v1::Attempt& attempt, bool ok, int tries_left) {
  v1::ReportCommunicatorsRequest request;
  *request.mutable_caller() = Caller();
  v1::CommunicatorReport& report = *request.add_reports();
  *report.mutable_attempt() = attempt;
  report.set_ok(ok);
  if (!ok) report.set_message("cannot connect");
  Call(request, [=](const Step& step) {
    if (!absl::IsUnavailable(step.status) || tries_left == 0) return;
    After(Backoff(), [=] { Report(attempt, ok, tries_left - 1); });
  });
}

void Process::OnSlots(const v1::Attempt& attempt) {
  if (FindTry(attempt) == nullptr) return;
  const absl::Duration delay =
      world_.random.Between(absl::Milliseconds(1), absl::Milliseconds(300));
  After(delay, [this, attempt] {
    Try* found = FindTry(attempt);
    if (found == nullptr) return;
    found->connected = !world_.is_closed(seat_, attempt) &&
                       !world_.random.Chance(world_.options.connect_failure);
    Report(attempt, found->connected);
  });
}

void Process::OnActive(const v1::Attempt& attempt) {
  Clique& clique = cliques_[attempt.clique()];
  if (clique.active.has_value() && SameAttempt(*clique.active, attempt)) return;
  const Try* found = FindTry(attempt);
  if (found == nullptr || !found->connected) return Report(attempt, false);
  tries_.erase(attempt.clique());
  clique.active = attempt;
  if (world_.is_closed(seat_, attempt)) OnPeerClosed(attempt);
}

void Process::OnAborted(const v1::Attempt& attempt) {
  if (FindTry(attempt) != nullptr) {
    world_.close_communicator(seat_, attempt);
    tries_.erase(attempt.clique());
  }
  EndActive(
      [&](const Clique& clique) {
        return SameAttempt(*clique.active, attempt);
      },
      /*report=*/false);
}

// How many there were.
int Process::EndActive(const std::function<bool(const Clique&)>& which,
                       bool report) {
  int count = 0;
  for (auto& [name, clique] : cliques_) {
    if (!clique.active.has_value() || !which(clique)) continue;
    const v1::Attempt attempt = *clique.active;
    clique.active.reset();
    world_.close_communicator(seat_, attempt);
    if (report) Report(attempt, false);
    ++count;
  }
  return count;
}

void Process::OnPeerClosed(const v1::Attempt& attempt) {
  Guard([this, attempt] {
    const int count = EndActive(
        [&](const Clique& clique) {
          return SameAttempt(*clique.active, attempt);
        },
        /*report=*/true);
    if (count > 0) Interrupt();
  })();
}

void Process::BreakCommunicator() {
  for (const auto& [name, clique] : cliques_) {
    if (!clique.active.has_value()) continue;
    return OnPeerClosed(v1::Attempt(*clique.active));
  }
}

std::optional<std::map<std::string, v1::Attempt>> Process::Communicators()
    const {
  if (!alive_ || !registered_ || generation_ == 0 ||
      learned_generation_ != generation_) {
    return std::nullopt;
  }
  std::map<std::string, v1::Attempt> active;
  for (const auto& [name, clique] : cliques_) {
    if (!clique.active.has_value()) return std::nullopt;
    active[name] = *clique.active;
  }
  return active;
}

}  // namespace simulation
}  // namespace shardwright
