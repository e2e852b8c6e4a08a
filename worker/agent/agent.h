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

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cc/coordinator_client.h"
#include "client/cc/lease_keeper.h"
#include "proto/sync/mutex.h"
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

  // Whether a clique proves itself by a barrier before it counts as active.
  bool check_cliques = false;
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
  // Makes Run() look again, now.
  void WakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const CoordinatorClient client_;
  CommunicatorFactory& factory_;
  AgentOptions options_;  // Constant after Start().
  CliqueTable cliques_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool registered_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status fatal_ ABSL_GUARDED_BY(mutex_);
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;  // Last heard of.
  // Whether cliques_ is still what the layout says.
  bool check_layout_ ABSL_GUARDED_BY(mutex_) = true;
  // That cliques_ is made of; 0: none.
  int64_t learned_generation_ ABSL_GUARDED_BY(mutex_) = 0;
  // Of learned_generation_.
  uint64_t layout_digest_ ABSL_GUARDED_BY(mutex_) = 0;
  // The Form call that runs is out of date.
  bool interrupt_ ABSL_GUARDED_BY(mutex_) = false;
  CallCanceller canceller_ ABSL_GUARDED_BY(mutex_);  // Of that call.
  // Before the next try, after a failure.
  absl::Duration pause_ ABSL_GUARDED_BY(mutex_);
  // Logged once, not at every try.
  std::string last_refusal_ ABSL_GUARDED_BY(mutex_);

  std::unique_ptr<LeaseKeeper> keeper_;  // From Start() to Stop().
  std::thread thread_;
};

}  // namespace shardwright

#endif  // WORKER_AGENT_AGENT_H_
