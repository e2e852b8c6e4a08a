// Whole runs: what goes wrong is drawn, then heals, and all must come to rest.

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "tests/simulation/simulation.h"

namespace shardwright {
namespace simulation {
namespace {

constexpr absl::Duration kFaultPeriod = absl::Seconds(1);

// After the last fault: messages that linger arrive, leases of the dead run
// out, calls that wait for nobody time out, twice over.
constexpr absl::Duration kRestBound = absl::Minutes(5);

int64_t Divisor(Random& random, int64_t number) {
  for (;;) {
    const int64_t candidate = 1 + random.Below(number);
    if (number % candidate == 0) return candidate;
  }
}

void AddModule(Random& random, const std::string& name, v1::Role role,
               int64_t first, int64_t count, v1::Layout& layout) {
  v1::Module& module = *layout.add_modules();
  module.set_name(name);
  module.set_role(role);
  module.set_first_rank(first);
  module.set_rank_count(count);
  v1::Parallelism& sizes = *module.mutable_parallelism();
  sizes.set_tp(Divisor(random, count));
  if (role == v1::LANGUAGE) sizes.set_cp(Divisor(random, count / sizes.tp()));
}

v1::Layout RandomLayout(Random& random, const std::string& name,
                        int rank_count_max) {
  v1::Layout layout;
  layout.set_name(name);
  const int64_t count = 2 + random.Below(rank_count_max - 1);
  layout.set_world_size(count);
  int64_t first = 0;
  if (count > 2 && random.Chance(0.5)) {
    first = 1 + random.Below(count - 2);
    AddModule(random, "images", v1::ENCODER, 0, first, layout);
    v1::Edge& edge = *layout.add_edges();
    edge.set_from("images");
    edge.set_to("language");
  }
  AddModule(random, "language", v1::LANGUAGE, first, count - first, layout);
  return layout;
}

}  // namespace

bool Simulation::Happens(absl::Duration every) {
  return random_.Chance(absl::FDivDuration(kFaultPeriod, every));
}

void Simulation::AddJobs() {
  const std::vector<std::string> kinds = {"tp",    "cp",   "dp",
                                          "tp_cp", "embd", "bridge"};
  for (int i = 0; i < options_.job_count; ++i) {
    const std::string name = absl::StrCat("job-", i);
    Job& job = jobs_[name];
    for (int j = 0; j < options_.layout_count; ++j) {
      job.layouts.push_back(
          RandomLayout(random_, name, options_.rank_count_max));
    }
    if (random_.Chance(0.25)) job.backend = v1::NCCL;
    if (random_.Chance(0.1)) continue;
    for (const std::string& kind : kinds) {
      if (random_.Chance(0.4)) job.kinds.push_back(kind);
    }
    if (job.kinds.empty()) job.kinds.push_back("tp");
  }
}

// The operator applies a layout until it is told that it is in force.
void Simulation::ApplyOne(const std::string& name) {
  Job& job = jobs_[name];
  v1::ApplyLayoutRequest request;
  *request.mutable_layout() = job.layouts[random_.Below(job.layouts.size())];
  if (random_.Chance(0.3)) request.set_if_generation(job.generation);
  request.set_dry_run(random_.Chance(0.1));
  network_.Call(job.link, request, [this, name](const Step& step) {
    if (step.status.ok()) jobs_[name].generation = step.applied.generation();
    if (coordinator_.checker().store().FindJob(name) == nullptr) {
      timeline_.After(absl::Seconds(1), [this, name] { ApplyOne(name); });
    }
  });
}

void Simulation::DoFaultsTo(const ProcessPtr& process) {
  const MemberKey seat = process->seat();
  if (Happens(options_.cut_every) && !process->link()->cut) {
    process->link()->cut = true;
    timeline_.After(random_.Between(absl::ZeroDuration(), options_.cut_max),
                    [process] { process->link()->cut = false; });
  }
  if (Happens(options_.break_every)) process->BreakCommunicator();
  if (Happens(options_.double_launch_every)) Launch(seat);
  if (Happens(options_.pause_every) && !process->paused()) {
    Trace([&] { return absl::StrCat("paused ", process->Describe()); });
    process->Pause();
    timeline_.After(random_.Between(absl::ZeroDuration(), options_.pause_max),
                    [process] {
                      if (process->paused()) process->Resume();
                    });
    if (random_.Chance(options_.restart_beside_paused)) Launch(seat);
  } else if (Happens(options_.crash_every)) {
    Trace([&] { return absl::StrCat("killed ", process->Describe()); });
    process->Crash();
  } else if (Happens(options_.leave_every) && !process->paused()) {
    Trace([&] { return absl::StrCat("leaves ", process->Describe()); });
    process->Leave();
  }
}

void Simulation::DoFaults() {
  if (!with_faults_) return;
  const std::vector<ProcessPtr> processes = processes_;
  for (const ProcessPtr& process : processes) {
    if (process->alive()) DoFaultsTo(process);
  }
  if (coordinator_.up() && Happens(options_.coordinator_crash_every)) {
    coordinator_.Crash();
  }
  for (const auto& [name, job] : jobs_) {
    if (Happens(options_.apply_every)) ApplyOne(name);
    if (random_.Chance(0.2)) coordinator_.Diagnose(name);
  }
  if (Happens(options_.silent_every)) network_.OpenSilent();
  Supervise(0.3);
  timeline_.After(kFaultPeriod, [this] { DoFaults(); });
}

// Starts what should run and ends what should not.
void Simulation::Supervise(double launch_chance) {
  std::set<MemberKey> held;
  const StoreModel& store = coordinator_.checker().store();
  for (const ProcessPtr& process : processes_) {
    if (!process->alive()) continue;
    const MemberKey& seat = process->seat();
    const StoreModel::Job* job = store.FindJob(seat.job);
    if (job != nullptr && seat.rank >= job->layout->world_size() &&
        random_.Chance(launch_chance)) {
      process->Crash();
    } else {
      held.insert(seat);
    }
  }
  for (const auto& [name, job] : store.jobs()) {
    for (Rank rank = 0; rank < job.layout->world_size(); ++rank) {
      for (const v1::MemberKind kind : {v1::WORKER, v1::TRAINER}) {
        if (kind == v1::TRAINER && !options_.with_trainers) continue;
        const MemberKey seat{name, rank, kind};
        if (held.count(seat) == 0 && random_.Chance(launch_chance)) {
          Launch(seat);
        }
      }
    }
  }
}

// From now on nothing goes wrong but what lingers.
void Simulation::Heal() {
  Trace([] { return "faults stop"; });
  with_faults_ = false;
  Options calm;
  calm.job_count = options_.job_count;
  calm.with_trainers = options_.with_trainers;
  calm.with_barriers = options_.with_barriers;
  calm.lease_ttl = options_.lease_ttl;
  options_ = calm;
  StartCoordinator();
  for (const ProcessPtr& process : std::vector<ProcessPtr>(processes_)) {
    process->link()->cut = false;
    if (process->paused()) process->Resume();
  }
}

void Simulation::Watch(const std::string& job) {
  watchers_.push_back(
      std::make_shared<Watcher>(world_, coordinator_.violations(), job));
  watchers_.back()->Start();
}

// Whether every watcher has got what is in force.
bool Simulation::AllWatched() const {
  const StoreModel& store = coordinator_.checker().store();
  for (const auto& watcher : watchers_) {
    const StoreModel::Job* job = store.FindJob(watcher->job());
    if (watcher->revision() !=
        (job == nullptr ? store.layout_revision() : job->revision)) {
      return false;
    }
  }
  return true;
}

// Whether every process has been released from each of its barriers since.
bool Simulation::AllReleased(
    const std::map<const Process*, int64_t>& before) const {
  if (!options_.with_barriers) return true;
  for (const ProcessPtr& process : processes_) {
    if (!process->alive()) continue;
    const auto base = before.find(process.get());
    if (base == before.end() || process->release_count() <= base->second) {
      return false;
    }
  }
  return true;
}

std::string Simulation::WhoIsNotAtRest() const {
  std::string who;
  for (const ProcessPtr& process : processes_) {
    if (!process->alive() || process->Communicators().has_value()) continue;
    absl::StrAppend(&who, "; ", process->Describe());
  }
  return who;
}

void Simulation::Run() {
  AddJobs();
  with_faults_ = true;
  for (const auto& [name, job] : jobs_) ApplyOne(name);
  Watch("");
  Watch("job-0");
  DoFaults();
  Advance(options_.fault_time);
  Heal();

  const absl::Time end = timeline_.now() + kRestBound;
  std::function<void()> supervise = [&] {
    Supervise(1);
    timeline_.After(kFaultPeriod, supervise);
  };
  supervise();
  Advance(Options().linger_max);
  const bool formed =
      RunUntil([this] { return AllFormed(); }, end - timeline_.now());
  std::map<const Process*, int64_t> before;
  for (const ProcessPtr& process : processes_) {
    before[process.get()] = process->release_count();
  }
  const bool released =
      RunUntil([&] { return AllReleased(before); }, end - timeline_.now());
  const bool watched =
      RunUntil([this] { return AllWatched(); }, end - timeline_.now());
  coordinator_.violations().Require(
      watched, "liveness: a watcher has not got the newest layout");
  coordinator_.violations().Require(
      formed && released, "liveness: ", absl::FormatDuration(kRestBound),
      " after the last fault ",
      formed ? "a barrier has not released all"
             : "not all communicators are formed",
      WhoIsNotAtRest());
}

}  // namespace simulation
}  // namespace shardwright
