// A process that is, or would be, a member: does what the agent of a worker and
// client/cc/member do, as far as the coordinator can see it.
//
// It registers, keeps a session, learns its layout, forms its communicators
// (GO, publish, SLOTS, connect, report, ACTIVE), waits at barriers, and does so
// again after whatever was lost; until it is told to go, or that another
// process has its rank.

#ifndef TESTS_SIMULATION_PROCESS_H_
#define TESTS_SIMULATION_PROCESS_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/core/member_key.h"
#include "tests/simulation/network.h"
#include "tests/simulation/options.h"
#include "tests/simulation/random.h"
#include "tests/simulation/timeline.h"

namespace shardwright {
namespace simulation {

// What processes live in. Its parts must outlive them.
struct World {
  Timeline& timeline;
  Random& random;
  const Options& options;
  Network& network;

  // The peers' connections with one another. Who has closed its end of an
  // attempt has ended it for all: whoever has it notices, a little later.
  std::function<void(const MemberKey&, const v1::Attempt&)> close_communicator;
  std::function<bool(const MemberKey&, const v1::Attempt&)> is_closed;
};

class Process : public std::enable_shared_from_this<Process> {
 public:
  // `kinds`: of the groups to form; empty means all.
  Process(World& world, MemberKey seat, uint64_t incarnation,
          std::vector<std::string> kinds, v1::CommBackend backend);

  void Start();

  // What happens to it. A paused process does nothing; what it was to hear
  // waits for it.
  void Pause();
  void Resume();
  void Crash();  // As kill -9.
  void Leave();  // In good order.
  void BreakCommunicator();
  void OnPeerClosed(const v1::Attempt& attempt);

  const MemberKey& seat() const { return seat_; }
  uint64_t incarnation() const { return incarnation_; }
  const std::shared_ptr<Link>& link() const { return link_; }
  bool alive() const { return alive_; }
  bool paused() const { return paused_; }
  const std::string& end_reason() const { return end_reason_; }

  // By clique; only if all are active in the layout last heard of.
  std::optional<std::map<std::string, v1::Attempt>> Communicators() const;

  // The fewest releases that it has seen of one of its barriers.
  int64_t release_count() const;

  int64_t generation() const { return generation_; }
  std::string Describe() const;

 private:
  struct Clique {
    std::string kind;
    std::vector<Rank> ranks;
    std::optional<v1::Attempt> active;
  };
  struct Try {
    v1::Attempt attempt;
    bool connected = false;
  };
  struct Barrier {
    enum class Scope { kJob, kModule, kClique } scope = Scope::kJob;
    int64_t sequence = 0;
    std::optional<uint64_t> digest;  // Nothing: to be worked out.
    int64_t release_count = 0;
    Network::StreamPtr call;
  };

  // process.cc
  std::function<void()> Guard(std::function<void()> what);
  void After(absl::Duration delay, std::function<void()> what);
  void Call(const Request& request, std::function<void(const Step&)> done);
  Network::StreamPtr Open(const Request& request,
                          std::function<void(const StreamEffect&)> on_message,
                          std::function<void(const absl::Status&)> on_end);
  absl::Duration Backoff();
  v1::Caller Caller();
  void End(const std::string& reason);
  void Register();
  void OnRegistered(const Step& step);
  void OpenSession();
  v1::SessionRequest NextRenewal();
  void Renew(const Network::StreamPtr& session);
  void OnNews(const v1::SessionResponse& news);
  void OnSessionEnd(const absl::Status& status);
  std::optional<std::string> ScopeOf(const Barrier& barrier) const;
  void WaitAtBarrier(size_t index);
  void OnBarrierEnd(size_t index, const absl::Status& status);

  // process_formation.cc
  void Interrupt();
  void Work();
  void LearnIdentity(const absl::StatusOr<JobLayout>& job);
  void Form();
  void EndForm();
  void OnFormEnd(const absl::Status& status);
  void OnEvent(const v1::FormCommunicatorsResponse& event);
  void OnGo(const v1::Go& go);
  void OnSlots(const v1::Attempt& attempt);
  void OnActive(const v1::Attempt& attempt);
  void OnAborted(const v1::Attempt& attempt);
  void Publish(const v1::PublishSlotsRequest& request, int tries_left);
  void Report(const v1::Attempt& attempt, bool ok, int tries_left = 5);
  Try* FindTry(const v1::Attempt& attempt);
  int EndActive(const std::function<bool(const Clique&)>& which, bool report);

  World& world_;
  const MemberKey seat_;
  const uint64_t incarnation_;
  const std::vector<std::string> kinds_;
  const v1::CommBackend backend_;
  const std::shared_ptr<Link> link_ = std::make_shared<Link>();
  bool alive_ = true;
  bool paused_ = false;
  std::string end_reason_;
  std::deque<std::function<void()>> backlog_;  // While paused.

  bool registered_ = false;
  int64_t generation_ = 0;
  std::optional<int64_t> revision_;
  absl::Duration renew_period_;
  absl::Duration backoff_ = absl::Milliseconds(100);
  std::pair<std::string, std::string> holder_;  // Incarnation, term.
  Network::StreamPtr session_;

  int64_t learned_generation_ = 0;
  bool check_layout_ = false;
  bool learning_ = false;
  uint64_t layout_digest_ = 0;
  std::string module_;
  std::map<std::string, Clique> cliques_;  // By name.
  Network::StreamPtr form_;
  std::map<std::string, Try> tries_;  // By clique. Of form_.

  std::vector<Barrier> barriers_;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_PROCESS_H_
