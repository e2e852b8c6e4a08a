// What is promised of barriers, checked after every step:
//   1. A barrier releases when every rank of its scope has arrived, and only
//      then; all at once, with one sequence and one digest.
//   2. Who is released twice from one sequence is the process that was released
//      the first time.
//   3. Sequences go up by one, unless the barrier may begin anywhere.
//   4. A call ends by its deadline, when its member or one that waits with it
//   is
//      lost, when the layout changes, and when somebody brings another digest;
//      MEMBERS_MISSING names exactly those who were missing.

#ifndef TESTS_SIMULATION_BARRIER_CHECKER_H_
#define TESTS_SIMULATION_BARRIER_CHECKER_H_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "tests/simulation/step.h"
#include "tests/simulation/store_model.h"

namespace shardwright {
namespace simulation {

class BarrierChecker {
 public:
  BarrierChecker(const StoreModel& store, Violations& violations)
      : store_(store), violations_(violations) {}

  // In this order, for every step.
  void BeforeEffects(const Step& step);
  void OnProgress(StreamId stream, const v1::WaitAtBarrierResponse& progress);
  void OnEnd(const Step& step, StreamId stream, const absl::Status& status);
  void AfterEffects(const Step& step);

  // The coordinator has died: no call is open, nothing is remembered.
  void Crashed();

  bool IsOpen(StreamId stream) const { return waits_.count(stream) > 0; }

 private:
  using Key = std::tuple<std::string, v1::MemberKind, std::string>;

  struct Use {
    int64_t sequence = 0;
    std::string scope;
    uint64_t digest = 0;

    friend bool operator==(const Use& a, const Use& b) {
      return std::tie(a.sequence, a.scope, a.digest) ==
             std::tie(b.sequence, b.scope, b.digest);
    }
  };
  struct Barrier {
    Use use;
    std::map<Rank, StreamId> arrived;
    std::set<Rank> gave_up;
    std::optional<Use> released;
    std::map<Rank, uint64_t> released_incarnations;

    // Of the step.
    bool peer_lost = false, mismatch = false;
    std::map<Rank, uint64_t> leaving;  // Released in it.
  };
  struct Wait {
    MemberKey member;
    uint64_t incarnation;
    int64_t generation;
    Key barrier;
    absl::Time deadline;
    bool is_repeat = false;
  };

  static Use UseOf(const v1::WaitAtBarrierRequest& request) {
    return {request.sequence(), request.scope(), request.digest()};
  }
  std::vector<Rank> ScopeRanks(const std::string& job,
                               const std::string& scope) const;
  void OnLost(const MemberKey& lost);
  void OnWait(const Step& step, const v1::WaitAtBarrierRequest& request);
  void OnRefused(const absl::Status& status, Barrier& barrier,
                 const v1::WaitAtBarrierRequest& request);
  void CloseWait(StreamId stream);
  std::vector<Rank> Missing(const Wait& wait) const;
  std::vector<Rank> MissingAtDeadline(const Wait& wait) const;

  const StoreModel& store_;
  Violations& violations_;
  std::map<Key, Barrier> barriers_;
  std::map<StreamId, Wait> waits_;

  // Of the step: whom a call that times out shall name.
  std::map<StreamId, std::vector<Rank>> missing_at_deadline_;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_BARRIER_CHECKER_H_
