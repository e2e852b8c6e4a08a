// The Agent is the worker's standing in its job: it keeps the process a member,
// learns from the layout who its rank is, and keeps the rank's cliques formed.
// No gRPC server and no CUDA: worker/rpc and the device carry out the work.
//
// What ends a clique: a lost member, a broken connection, a new generation, or
// this process's own lease. The agent then aborts its communicator, so that
// what waits on it fails at once, and forms it again with who comes. That the
// coordinator is gone ends nothing: cliques that are formed go on working, and
// are not formed again when it is back.

#ifndef WORKER_AGENT_AGENT_H_
#define WORKER_AGENT_AGENT_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cc/coordinator_client.h"
#include "client/cc/lease_keeper.h"
#include "shardwright/v1/worker.pb.h"
#include "worker/agent/clique_table.h"
#include "worker/comm/communicator.h"

namespace shardwright {

struct AgentOptions {
  v1::MemberId member;
  v1::MemberFacts facts;

  // Random, one a process start; not 0.
  uint64_t incarnation = 0;

  // How long one call waits for the other members, before it says who is
  // missing and is made again.
  absl::Duration form_timeout = absl::Seconds(60);

  // Group kinds to form; empty: every kind.
  std::vector<std::string> kinds;
};

// Thread-safe, but for Start() and Stop().
class Agent : private LeaseListener {
 public:
  // `factory` must outlive it.
  Agent(CoordinatorClient client, CommunicatorFactory& factory,
        AgentOptions options);

  // As Stop().
  ~Agent() override;

  // Begins. `address` is the worker's own server, for MemberFacts. Once.
  void Start(const std::string& address);

  // Waits until the agent can do no more, as LeaseListener::OnFatal() says,
  // or until Stop(): then OK.
  absl::Status Wait();

  // Gives up the lease, so that peers are told at once, and closes the cliques.
  // May be repeated.
  void Stop();

  const CliqueTable& cliques() const { return cliques_; }

  // All but what the daemon adds about its own sessions.
  v1::WorkerDescription Describe() const;

 private:
  void OnRegistered(const v1::RegisterResponse& grant) override;
  void OnRefused(const absl::Status& why, absl::Duration retry_in) override;
  void OnNews(int64_t generation,
              const std::vector<v1::LostMember>& lost) override;
  void OnDisconnected(const absl::Status& why) override;
  void OnLeaseLost(const absl::Status& why) override;
  void OnFatal(const absl::Status& why) override;

  void Run();
  // Waits until there is something to do; false: stop.
  bool WaitForWork();
  absl::Status LearnIdentity();
  void ReportEnded();
  void Form();
  void OnWaiting(const v1::Waiting& waiting);
  void OnFormed(const absl::Status& status);
  // Makes Run() look again, now. With mutex_ held.
  void WakeLocked();

  const CoordinatorClient client_;
  CommunicatorFactory& factory_;
  AgentOptions options_;  // Constant after Start().
  CliqueTable cliques_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool registered_ = false;  // All that follow: guarded by mutex_.
  bool stopping_ = false;
  absl::Status fatal_;
  int64_t generation_ = 0;          // Last heard of.
  bool check_layout_ = true;        // Whether cliques_ is still what it says.
  int64_t learned_generation_ = 0;  // That cliques_ is made of; 0: none.
  uint64_t layout_digest_ = 0;      // Of learned_generation_.
  bool interrupt_ = false;          // The Form call that runs is out of date.
  CallCanceller canceller_;         // Of that call.
  absl::Duration pause_;            // Before the next try, after a failure.

  std::string last_refusal_;  // Logged once, not at every try.

  std::unique_ptr<LeaseKeeper> keeper_;  // From Start() to Stop().
  std::thread thread_;
};

}  // namespace shardwright

#endif  // WORKER_AGENT_AGENT_H_
