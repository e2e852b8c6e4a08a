// Watches every call of a coordinator core and everything it says, and holds it
// to what proto/shardwright/v1 and ARCHITECTURE.md promise. It knows the
// promises and the store's format, and uses none of the core's code.
//
//   1. Generation, term and revision are stored before anybody is told of them.
//   2. A stale request (of a process that was replaced or lost, or of a former
//      generation) is refused with the right reason, writes nothing, says
//      nothing to anybody, and is seen by nobody.
//   3. A refused request changes nothing.
//   4. A lease ends when its time is up and not before. All sessions of the job
//      are told of every loss and every layout, in the same step.
//   5. Nothing is said to a call after its end, or before its begin.
//   6. A coordinator that starts knows all that was stored.
//   7. Who is refused for too much to write is told when to come again.
// And those of StoreModel, CliqueChecker, BarrierChecker, WatchChecker and
// CheckDiagnostics().

#ifndef TESTS_SIMULATION_CHECKER_H_
#define TESTS_SIMULATION_CHECKER_H_

#include <map>
#include <string>

#include "absl/time/time.h"
#include "coordinator/core/coordinator_core.h"
#include "tests/simulation/barrier_checker.h"
#include "tests/simulation/clique_checker.h"
#include "tests/simulation/step.h"
#include "tests/simulation/store_model.h"
#include "tests/simulation/watch_checker.h"

namespace shardwright {
namespace simulation {

class Checker {
 public:
  explicit Checker(absl::Duration lease_ttl) : lease_ttl_(lease_ttl) {}
  Checker(const Checker&) = delete;
  Checker& operator=(const Checker&) = delete;

  // A write of the core; nullptr: one that was refused.
  void OnCommit(const StateStore::Entries* entries, absl::Time now);

  void OnStart(CoordinatorCore& core, absl::Time now);
  void OnCrash();

  // Around every step. `before` and `after` are what Observe() saw; only a
  // stale request needs them.
  void BeginStep(const Step& step);
  bool IsStale() const { return !stale_reason_.empty(); }
  void EndStep(const Step& step, const std::string& before,
               const std::string& after);

  // All that a reader can see of the core.
  std::string Observe(CoordinatorCore& core, absl::Time now) const;

  const StoreModel& store() const { return store_; }
  const CliqueChecker& cliques() const { return cliques_; }
  const Violations& violations() const { return violations_; }
  Violations& violations() { return violations_; }

 private:
  struct Session {
    MemberKey member;
    uint64_t incarnation = 0;
    int64_t told_revision = 0;
    int64_t told_generation = 0;
    int told_count = 0;  // In the step.
  };

  std::string StaleReason(const Request& request) const;
  void CheckAnswer(const Step& step);
  void CheckRefusal(const Step& step, const std::string& before,
                    const std::string& after);
  void OnSession(const Step& step, const v1::SessionRequest& request);
  void OnNews(StreamId stream, const v1::SessionResponse& news);
  void OnEffect(const Step& step, const StreamEffect& effect);
  void OnSessionEnd(const Step& step, StreamId stream,
                    const absl::Status& status);
  void CheckSessions(const Step& step);
  void CheckLeases(const Step& step);

  const absl::Duration lease_ttl_;
  Violations violations_;
  StoreModel store_{violations_};
  CliqueChecker cliques_{store_, violations_};
  BarrierChecker barriers_{store_, violations_};
  WatchChecker watches_{store_, violations_};

  std::map<StreamId, Session> sessions_;
  std::map<MemberKey, absl::Time> renewed_;  // Of live members.
  absl::Time refused_write_time_ = absl::InfinitePast();

  // With which the step must be refused for being stale; empty if it is not.
  std::string stale_reason_;

  // The step's session ends its silence by it, which moves the next tick.
  bool ends_silence_ = false;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_CHECKER_H_
