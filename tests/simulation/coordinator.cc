#include "tests/simulation/coordinator.h"

#include <utility>

#include "tests/simulation/diagnostics_checker.h"

namespace shardwright {
namespace simulation {

Coordinator::Coordinator(Timeline& timeline,
                         const CoordinatorCore::Options& options, Hooks hooks)
    : timeline_(timeline),
      options_(options),
      hooks_(std::move(hooks)),
      checker_(options.lease_ttl),
      store_(hooks_.next_fate, [this](const StateStore::Entries* entries) {
        checker_.OnCommit(entries, timeline_.now());
      }) {}

bool Coordinator::Start() {
  store_.crashed = false;
  auto core = CoordinatorCore::Start(store_, options_, timeline_.now());
  if (!core.ok() || store_.crashed) return false;
  core_ = *std::move(core);
  ++life_;
  checker_.OnStart(*core_, timeline_.now());
  wake_time_ = absl::InfiniteFuture();
  ScheduleTick();
  return true;
}

void Coordinator::Crash() {
  core_ = nullptr;
  checker_.OnCrash();
  hooks_.on_crash();
}

absl::StatusOr<JobLayout> Coordinator::FindLayout(
    const std::string& job) const {
  if (!up()) return absl::UnavailableError("the coordinator is down");
  return core_->FindLayout(job);
}

Step Coordinator::Handle(const Request& request, StreamId stream) {
  TickIfDue();
  Step step;
  step.request = request;
  step.stream = stream;
  Run(step);
  return step;
}

// A step of its own, so that all that the next step does is its own doing.
void Coordinator::TickIfDue() {
  if (!up() || core_->NextTick() > timeline_.now()) return;
  Step tick;
  tick.request = TickDue();
  Run(tick);
}

void Coordinator::Diagnose(const std::string& job) {
  TickIfDue();
  const absl::Time now = timeline_.now();
  if (!up() || checker_.store().FindJob(job) == nullptr) return;
  const std::string before = checker_.Observe(*core_, now);
  CheckDiagnostics(*core_, job, now, checker_.store(), violations());
  violations().Require(checker_.Observe(*core_, now) == before,
                       "diagnostics: asking changes something");
}

void Coordinator::Run(Step& step) {
  step.now = timeline_.now();
  if (!up()) {
    step.status = absl::UnavailableError("the coordinator is down");
    return;
  }
  ++step_count_;
  checker_.BeginStep(step);
  std::string before, after;
  if (checker_.IsStale()) before = checker_.Observe(*core_, step.now);
  Call(step);
  if (store_.crashed) {
    step.effects = Effects();
    step.status = absl::UnavailableError("the coordinator has crashed");
    hooks_.on_step(step);
    Crash();
    return;
  }
  if (checker_.IsStale()) after = checker_.Observe(*core_, step.now);
  step.next_tick = core_->NextTick();
  checker_.EndStep(step, before, after);
  hooks_.on_step(step);
  for (const StreamEffect& effect : step.effects.streams) {
    hooks_.on_effect(effect);
  }
  ScheduleTick();
}

void Coordinator::Call(Step& step) {
  const absl::Time now = step.now;
  Effects& effects = step.effects;
  const auto take = [&step](auto answer, auto& response) {
    step.status = answer.status();
    if (answer.ok()) response = *std::move(answer);
  };
  if (std::holds_alternative<TickDue>(step.request)) {
    core_->Tick(now, effects);
  } else if (std::holds_alternative<ClientGone>(step.request)) {
    core_->StreamClosed(step.stream, now, effects);
  } else if (auto* apply = std::get_if<v1::ApplyLayoutRequest>(&step.request)) {
    take(core_->ApplyLayout(*apply, now, effects), step.applied);
  } else if (auto* registration =
                 std::get_if<v1::RegisterRequest>(&step.request)) {
    take(core_->Register(*registration, now, effects), step.registered);
  } else if (auto* leave = std::get_if<v1::LeaveRequest>(&step.request)) {
    step.status = core_->Leave(*leave, now, effects);
  } else if (auto* publish =
                 std::get_if<v1::PublishSlotsRequest>(&step.request)) {
    step.status = core_->PublishSlots(*publish, now, effects);
  } else if (auto* report =
                 std::get_if<v1::ReportCommunicatorsRequest>(&step.request)) {
    step.status = core_->ReportCommunicators(*report, now, effects);
  } else if (auto* session = std::get_if<v1::SessionRequest>(&step.request)) {
    step.status = core_->Session(step.stream, *session, now, effects);
  } else if (auto* form =
                 std::get_if<v1::FormCommunicatorsRequest>(&step.request)) {
    step.status = core_->FormCommunicators(step.stream, *form, now, effects);
  } else if (auto* wait =
                 std::get_if<v1::WaitAtBarrierRequest>(&step.request)) {
    step.status = core_->WaitAtBarrier(step.stream, *wait, now, effects);
  } else if (auto* watch =
                 std::get_if<v1::WatchLayoutsRequest>(&step.request)) {
    step.status = core_->WatchLayouts(step.stream, *watch, now, effects);
  } else if (std::holds_alternative<SessionOpened>(step.request)) {
    core_->SessionOpened(step.stream, now, effects);
  } else if (std::holds_alternative<AllRead>(step.request)) {
    core_->WatchOn(step.stream, now, effects);
  }
}

void Coordinator::ScheduleTick() {
  const absl::Time next = core_->NextTick();
  if (next >= wake_time_ || next == absl::InfiniteFuture()) return;
  wake_time_ = next;
  timeline_.At(next, [this, life = life_] {
    if (life != life_ || !up() || timeline_.now() < wake_time_) return;
    wake_time_ = absl::InfiniteFuture();
    TickIfDue();
    if (up()) ScheduleTick();
  });
}

}  // namespace simulation
}  // namespace shardwright
