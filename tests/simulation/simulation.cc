#include "tests/simulation/simulation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"

namespace shardwright {
namespace simulation {
namespace {

constexpr size_t kTraceMax = 200;
constexpr absl::Duration kPeerNoticesMax = absl::Milliseconds(200);

std::string AttemptKey(const MemberKey& seat, const v1::Attempt& attempt) {
  return absl::StrCat(seat.job, " ", seat.kind, " ", attempt.clique(), " ",
                      attempt.term(), " ", attempt.number());
}

std::string TextOf(const StreamEffect& effect) {
  const std::string stream = absl::StrCat("    to ", effect.stream, ": ");
  if (const auto* end = std::get_if<absl::Status>(&effect.what)) {
    return absl::StrCat(stream, "END ", ReasonOf(*end), " ", end->ToString());
  }
  if (const auto* news =
          std::get_if<std::shared_ptr<const v1::SessionResponse>>(
              &effect.what)) {
    return absl::StrCat(stream, (*news)->ShortDebugString());
  }
  if (const auto* event =
          std::get_if<std::shared_ptr<const v1::FormCommunicatorsResponse>>(
              &effect.what)) {
    return absl::StrCat(stream, (*event)->ShortDebugString());
  }
  if (const auto* layout =
          std::get_if<std::shared_ptr<const v1::WatchLayoutsResponse>>(
              &effect.what)) {
    return absl::StrCat(stream, (*layout)->ShortDebugString());
  }
  return absl::StrCat(
      stream, (*std::get_if<std::shared_ptr<const v1::WaitAtBarrierResponse>>(
                   &effect.what))
                  ->ShortDebugString());
}

v1::Attempt AttemptOf(const v1::FormCommunicatorsResponse& event) {
  return event.has_go()       ? event.go().attempt()
         : event.has_slots()  ? event.slots().attempt()
         : event.has_active() ? event.active().attempt()
                              : event.aborted().attempt();
}

template <typename Message>
std::string TextOfRequest(const Message& request) {
  return request.ShortDebugString();
}
std::string TextOfRequest(const TickDue&) { return ""; }
std::string TextOfRequest(const ClientGone&) { return ""; }
std::string TextOfRequest(const SessionOpened&) { return ""; }
std::string TextOfRequest(const AllRead&) { return ""; }

}  // namespace

Simulation::Simulation(const Options& options, uint64_t seed, bool keep_trace)
    : options_(options),
      random_(seed),
      keep_trace_(keep_trace),
      timeline_(options_.time_grain),
      coordinator_(
          timeline_, {options_.lease_ttl, options_.admission_rate},
          {[this] {
             if (random_.Chance(options_.store_refuses)) {
               return FaultyStore::Fate::kRefused;
             }
             if (!random_.Chance(options_.crash_around_write)) {
               return FaultyStore::Fate::kWritten;
             }
             return random_.Chance(0.5) ? FaultyStore::Fate::kCrashBefore
                                        : FaultyStore::Fate::kCrashAfter;
           },
           [this](const StreamEffect& effect) { network_.OnEffect(effect); },
           [this] {
             Trace([] { return "coordinator has crashed"; });
             network_.OnCrash();
             if (!with_faults_) return;
             timeline_.After(random_.Between(absl::ZeroDuration(),
                                             options_.coordinator_down_max),
                             [this] { StartCoordinator(); });
           },
           [this](const Step& step) { OnStep(step); }}),
      network_(timeline_, random_, options_, coordinator_),
      world_{timeline_,
             random_,
             options_,
             network_,
             [this](const MemberKey& seat, const v1::Attempt& attempt) {
               CloseCommunicator(seat, attempt);
             },
             [this](const MemberKey& seat, const v1::Attempt& attempt) {
               return closed_.count(AttemptKey(seat, attempt)) > 0;
             }} {
  StartCoordinator();
}

Simulation::~Simulation() = default;

void Simulation::StartCoordinator() {
  if (coordinator_.up()) return;
  if (!coordinator_.Start()) {
    timeline_.After(absl::Seconds(1), [this] { StartCoordinator(); });
    return;
  }
  Trace([this] {
    return absl::StrCat("coordinator begins term ",
                        coordinator_.checker().store().term());
  });
}

void Simulation::Trace(const std::function<std::string()>& line) {
  if (!keep_trace_) return;
  trace_.push_back(absl::StrCat(
      absl::FormatDuration(timeline_.now() - absl::FromUnixSeconds(1700000000)),
      " ", line()));
  if (trace_.size() > kTraceMax) trace_.pop_front();
}

void Simulation::OnStep(const Step& step) {
  const std::string name = NameOf(step.request);
  ++outcomes_[absl::StrCat(name, " ", ReasonOf(step.status))];
  for (const StreamEffect& effect : step.effects.streams) {
    if (const auto* end = std::get_if<absl::Status>(&effect.what)) {
      ++outcomes_[absl::StrCat("end ", ReasonOf(*end))];
      if (effect.stream > StreamId{1} << 40) {
        scripted_ends_[effect.stream] = *end;
      }
    } else if (const auto* event = std::get_if<
                   std::shared_ptr<const v1::FormCommunicatorsResponse>>(
                   &effect.what)) {
      ++outcomes_[absl::StrCat("event ", (*event)->event_case())];
      if (!(*event)->has_waiting()) last_attempt_ = AttemptOf(**event);
    }
  }
  if (!keep_trace_) return;
  Trace([&] {
    return absl::StrCat(
        name, " ",
        std::visit([](const auto& request) { return TextOfRequest(request); },
                   step.request),
        step.stream == 0 ? "" : absl::StrCat(" stream=", step.stream), " -> ",
        step.status.ok() ? "OK" : ReasonOf(step.status), " ",
        step.status.ok() ? "" : std::string(step.status.message()));
  });
  for (const StreamEffect& effect : step.effects.streams) {
    Trace([&] { return TextOf(effect); });
  }
}

void Simulation::CloseCommunicator(const MemberKey& seat,
                                   const v1::Attempt& attempt) {
  if (!closed_.insert(AttemptKey(seat, attempt)).second) return;
  for (const ProcessPtr& process : processes_) {
    if (!process->alive() || process->seat().job != seat.job ||
        process->seat().kind != seat.kind || process->seat() == seat) {
      continue;
    }
    timeline_.After(random_.Between(absl::Milliseconds(1), kPeerNoticesMax),
                    [process, attempt] { process->OnPeerClosed(attempt); });
  }
}

Simulation::ProcessPtr Simulation::Launch(const MemberKey& seat) {
  const auto job = jobs_.find(seat.job);
  const auto process = std::make_shared<Process>(
      world_, seat, random_.Next() | 1,
      job == jobs_.end() ? std::vector<std::string>{"tp", "dp"}
                         : job->second.kinds,
      job == jobs_.end() ? v1::GLOO : job->second.backend);
  processes_.push_back(process);
  Trace([&] { return absl::StrCat("launched ", process->Describe()); });
  process->Start();
  return process;
}

Simulation::ProcessPtr Simulation::Launch(Rank rank) {
  return Launch(MemberKey{"job-0", rank, v1::WORKER});
}

void Simulation::Crash(Rank rank) {
  for (const ProcessPtr& process : processes_) {
    if (process->seat().rank == rank) process->Crash();
  }
}

absl::Status Simulation::Apply(const v1::Layout& layout) {
  v1::ApplyLayoutRequest request;
  *request.mutable_layout() = layout;
  return coordinator_.Handle(request).status;
}

std::optional<absl::Status> Simulation::EndOf(StreamId stream) const {
  const auto found = scripted_ends_.find(stream);
  if (found == scripted_ends_.end()) return std::nullopt;
  return found->second;
}

void Simulation::Advance(absl::Duration duration) {
  RunUntil([] { return false; }, duration);
}

bool Simulation::RunUntil(const std::function<bool()>& condition,
                          absl::Duration bound) {
  const absl::Time end = timeline_.now() + bound;
  while (!violation().has_value()) {
    if (condition()) return true;
    if (!timeline_.RunNext(end)) return false;
  }
  return false;
}

bool Simulation::AllFormed() const {
  const StoreModel& store = coordinator_.checker().store();
  std::map<MemberKey, int> holders;
  std::map<std::string, std::string> attempts;
  for (const ProcessPtr& process : processes_) {
    const MemberKey& seat = process->seat();
    if (!process->alive() || !store.IsLive(seat, process->incarnation())) {
      continue;
    }
    const auto communicators = process->Communicators();
    if (!communicators.has_value() ||
        process->generation() != store.FindJob(seat.job)->generation) {
      return false;
    }
    ++holders[seat];
    for (const auto& [name, attempt] : *communicators) {
      const std::string clique = absl::StrCat(seat.job, " ", seat.kind, name);
      const std::string& first =
          attempts.try_emplace(clique, AttemptKey(seat, attempt)).first->second;
      if (first != AttemptKey(seat, attempt)) return false;
    }
  }
  for (const auto& [name, job] : store.jobs()) {
    for (Rank rank = 0; rank < job.layout->world_size(); ++rank) {
      if (holders[{name, rank, v1::WORKER}] != 1) return false;
      if (options_.with_trainers && holders[{name, rank, v1::TRAINER}] != 1) {
        return false;
      }
    }
  }
  return true;
}

v1::Layout LanguageLayout(int tp, int dp) {
  v1::Layout layout;
  layout.set_name("job-0");
  layout.set_world_size(tp * dp);
  v1::Module& module = *layout.add_modules();
  module.set_name("language");
  module.set_role(v1::LANGUAGE);
  module.set_first_rank(0);
  module.set_rank_count(tp * dp);
  module.mutable_parallelism()->set_tp(tp);
  return layout;
}

bool Simulation::RunUntilFormed(int tp, int dp) {
  if (!Apply(LanguageLayout(tp, dp)).ok()) return false;
  for (Rank rank = 0; rank < tp * dp; ++rank) Launch(rank);
  return RunUntil([this] { return AllFormed(); });
}

}  // namespace simulation
}  // namespace shardwright
