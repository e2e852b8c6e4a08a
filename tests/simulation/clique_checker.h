// What is promised of cliques, checked after every step:
//   1. GO goes to all members at once, and only when all have an open call with
//      the digest and generation in force and one backend.
//   2. Attempts of a clique grow, over layouts and terms. Nothing is said of an
//      attempt that is over, and all who took part are told that it is.
//   3. A slot is put once, by its owner, while its attempt runs. All members
//      get the same slots: those that were put in this attempt.
//   4. ACTIVE follows when all have reported success, and only then.
//   5. A call ends by its deadline, when its member is lost, when the layout
//      changes, or when all its cliques are active; MEMBERS_MISSING names
//      exactly those who were missing.
//   6. Nobody waits for what has happened already.

#ifndef TESTS_SIMULATION_CLIQUE_CHECKER_H_
#define TESTS_SIMULATION_CLIQUE_CHECKER_H_

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "tests/simulation/step.h"
#include "tests/simulation/store_model.h"

namespace shardwright {
namespace simulation {

class CliqueChecker {
 public:
  CliqueChecker(const StoreModel& store, Violations& violations)
      : store_(store), violations_(violations) {}

  // In this order, for every step.
  void BeforeEffects(const Step& step);
  void OnEvent(const Step& step, StreamId stream,
               const v1::FormCommunicatorsResponse& event);
  void OnEnd(const Step& step, StreamId stream, const absl::Status& status);
  void AfterEffects(const Step& step);

  // The coordinator has died: no call is open, no attempt runs.
  void Crashed();

  bool IsOpen(StreamId stream) const { return calls_.count(stream) > 0; }

  // Whether that attempt is the clique's, and active.
  bool IsActive(const MemberKey& member, const v1::Attempt& attempt) const;

 private:
  enum class Phase { kGathering, kExchanging, kConnecting, kActive };
  using Number = std::pair<int64_t, int32_t>;  // Term, then attempt.

  struct Clique {
    std::string name;
    std::vector<Rank> ranks;  // In group order; empty: of a former layout.
    Phase phase = Phase::kGathering;
    Number attempt;  // The last one that began.
    v1::CommBackend backend = v1::COMM_BACKEND_UNSPECIFIED;
    std::map<Rank, StreamId> present;
    std::set<Rank> gave_up, told_go, told_slots, reported;
    std::vector<std::string> slots;
    std::map<int32_t, Rank> owners;  // By slot.
    absl::Time failure_time = absl::InfinitePast();
    bool told_end = false;    // In this step, before a reason was seen.
    bool has_reason = false;  // In this step.
  };
  struct Call {
    MemberKey member;
    v1::FormCommunicatorsRequest request;
    absl::Time deadline;
    std::vector<Clique*> cliques;          // In creation order.
    std::map<const Clique*, Number> runs;  // As the member was told.
  };
  using Key = std::tuple<std::string, v1::MemberKind, std::string>;

  static Number NumberOf(const v1::Attempt& attempt) {
    return {attempt.term(), attempt.number()};
  }
  Clique* Find(const MemberKey& member, const v1::Attempt& attempt);
  Clique* FindRunning(const MemberKey& member, const v1::Attempt& attempt);
  std::vector<Clique*> Wanted(const MemberKey& member,
                              const v1::FormCommunicatorsRequest& request);
  void EndAttempt(Clique& clique);
  void CloseCall(StreamId stream);

  void OnForm(const Step& step, const v1::FormCommunicatorsRequest& request);
  void OnPublish(const Step& step, const v1::PublishSlotsRequest& request);
  bool MayPublish(const v1::PublishSlotsRequest& request);
  void OnReport(const Step& step,
                const v1::ReportCommunicatorsRequest& request);

  void OnWaiting(const Call& call, const v1::Waiting& waiting);
  void OnGo(StreamId stream, Call& call, const v1::Go& go);
  void OnSlots(Call& call, const v1::Slots& slots);
  void OnActive(const Step& step, StreamId stream, Call& call,
                const v1::Attempt& attempt);
  void OnAborted(Call& call, const v1::Attempt& attempt);
  void CheckEnd(const Step& step, StreamId stream, const Call& call,
                const absl::Status& status);
  void CheckCall(const Step& step, StreamId stream, const Call& call);
  void CheckClique(const Step& step, const Clique& clique);

  bool IsPresent(const Call& call, const Clique& clique, Rank rank) const;
  std::vector<Rank> Missing(const Call& call, const Clique& clique) const;
  std::vector<Rank> MissingAtDeadline(const Call& call) const;

  const StoreModel& store_;
  Violations& violations_;
  std::map<Key, Clique> cliques_;
  std::map<StreamId, Call> calls_;
  std::map<MemberKey, StreamId> call_of_member_;

  // Of the step: whom a call that times out shall name.
  std::map<StreamId, std::vector<Rank>> missing_at_deadline_;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_CLIQUE_CHECKER_H_
