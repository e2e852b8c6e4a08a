// The whole control plane in one thread on virtual time: a coordinator, its
// store, the network, and processes that are members; all of it a function of
// options and seed. A Checker watches every step.
//
// Either scripted, as a scenario, or Run(): faults for a while, then none, and
// everything must come to rest.

#ifndef TESTS_SIMULATION_SIMULATION_H_
#define TESTS_SIMULATION_SIMULATION_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shardwright/v1/layout.pb.h"
#include "tests/simulation/coordinator.h"
#include "tests/simulation/network.h"
#include "tests/simulation/options.h"
#include "tests/simulation/process.h"
#include "tests/simulation/random.h"
#include "tests/simulation/timeline.h"
#include "tests/simulation/watcher.h"

namespace shardwright {
namespace simulation {

// A layout of "job-0" with one language module of `tp` x `dp` ranks.
v1::Layout LanguageLayout(int tp, int dp = 1);

class Simulation {
 public:
  using ProcessPtr = std::shared_ptr<Process>;

  // The coordinator runs; nothing else does. With `keep_trace` the last steps
  // are kept as text.
  Simulation(const Options& options, uint64_t seed, bool keep_trace = false);
  ~Simulation();
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  // --- For scenarios.

  // Applies LanguageLayout() and launches a worker for each rank, until all
  // communicators are formed. Whether they are.
  bool RunUntilFormed(int tp, int dp = 1);

  // A worker for a rank of "job-0", which begins to register.
  ProcessPtr Launch(Rank rank);

  // Those that were launched, in that order.
  const std::vector<ProcessPtr>& processes() const { return processes_; }

  // Kills whoever lives at that rank.
  void Crash(Rank rank);

  absl::Status Apply(const v1::Layout& layout);
  void Advance(absl::Duration duration);

  // Whether `condition` came true in time.
  bool RunUntil(const std::function<bool()>& condition,
                absl::Duration bound = absl::Minutes(2));

  // Whether each rank of each job has a live process whose communicators are
  // all active, and of one attempt within each clique.
  bool AllFormed() const;

  // What goes wrong from now on.
  Options& options() { return options_; }

  void CrashCoordinator() { coordinator_.Crash(); }
  void StartCoordinator();

  // A call of the core itself, as from a client with no network between. A
  // parked one has the stream of the answer.
  Step Handle(const Request& request) {
    return coordinator_.Handle(request, ++last_scripted_stream_);
  }

  // How such a call has ended; nothing while it is open.
  std::optional<absl::Status> EndOf(StreamId stream) const;

  // Of the last event about an attempt.
  const v1::Attempt& last_attempt() const { return last_attempt_; }

  // --- Whole runs.

  // Faults for options.fault_time, then none until all is at rest. A violation
  // ends it.
  void Run();

  const Coordinator& coordinator() const { return coordinator_; }
  const std::optional<std::string>& violation() const {
    return coordinator_.checker().violations().first();
  }
  int64_t step_count() const { return coordinator_.step_count(); }
  const std::deque<std::string>& trace() const { return trace_; }

  // How often what happened: "Register FENCED" for a request and its reason
  // ("Register " is OK), "end PEER_LOST" for how a call ended, "event 2" for
  // the field of FormCommunicatorsResponse.
  const std::map<std::string, int64_t>& outcomes() const { return outcomes_; }
  absl::Time now() const { return timeline_.now(); }

 private:
  // Of whole runs: an operator, who applies layouts.
  struct Job {
    std::vector<v1::Layout> layouts;
    std::vector<std::string> kinds;  // Of groups to form; empty means all.
    v1::CommBackend backend = v1::GLOO;
    int64_t generation = 0;  // Last answer.
    std::shared_ptr<Link> link = std::make_shared<Link>();
  };

  ProcessPtr Launch(const MemberKey& seat);
  void CloseCommunicator(const MemberKey& seat, const v1::Attempt& attempt);
  void Trace(const std::function<std::string()>& line);
  void OnStep(const Step& step);

  // chaos.cc
  void AddJobs();
  void ApplyOne(const std::string& name);
  void DoFaults();
  void DoFaultsTo(const ProcessPtr& process);
  void Supervise(double launch_chance);
  void Heal();
  void Watch(const std::string& job);
  bool AllWatched() const;
  bool AllReleased(const std::map<const Process*, int64_t>& before) const;
  std::string WhoIsNotAtRest() const;
  bool Happens(absl::Duration every);

  Options options_;
  Random random_;
  const bool keep_trace_;
  std::deque<std::string> trace_;
  std::map<std::string, int64_t> outcomes_;
  Timeline timeline_;
  Coordinator coordinator_;
  Network network_;
  World world_;
  std::vector<ProcessPtr> processes_;
  std::vector<std::shared_ptr<Watcher>> watchers_;
  std::set<std::string> closed_;  // Attempts.
  std::map<std::string, Job> jobs_;
  bool with_faults_ = false;
  StreamId last_scripted_stream_ = StreamId{1} << 40;  // Not the network's.
  std::map<StreamId, absl::Status> scripted_ends_;
  v1::Attempt last_attempt_;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_SIMULATION_H_
