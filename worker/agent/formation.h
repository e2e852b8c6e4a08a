// One FormCommunicators call: does what the coordinator says, clique by clique,
// until all that were asked for are active.

#ifndef WORKER_AGENT_FORMATION_H_
#define WORKER_AGENT_FORMATION_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cc/coordinator_client.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/communicator.pb.h"
#include "worker/agent/clique_table.h"
#include "worker/comm/communicator.h"

namespace shardwright {

// Used once, by one thread. Connects cliques side by side in threads of its
// own, and sends what they yield (slots, reports) in batches from another one.
// If asked to, it proves each clique by a barrier before it reports it: one
// after another, in the order of their slots, which is the same at all members,
// so that no two cliques on one GPU wait for each other. All have ended when
// Run() returns; attempts that have not become active are aborted then, so that
// no slot of theirs is ever used again.
class Formation {
 public:
  // `factory` and `cliques` must outlive it.
  Formation(CoordinatorClient client, CommunicatorFactory& factory,
            CliqueTable& cliques, v1::Caller caller, bool check_cliques);
  ~Formation();

  // Forms the communicators of `request`, whose caller it sets, and installs
  // them. `on_waiting` is called in this thread with every Waiting event, and
  // `keep_going` after every event: false ends the call, with CANCELLED.
  //
  // Errors: as CommunicatorService.FormCommunicators.
  absl::Status Run(v1::FormCommunicatorsRequest request,
                   const std::function<void(const v1::Waiting&)>& on_waiting,
                   const std::function<bool()>& keep_going,
                   CallCanceller canceller);

 private:
  // One attempt at one clique.
  struct Try {
    v1::Attempt attempt;
    std::unique_ptr<CommunicatorAttempt> connecting;
    std::shared_ptr<Communicator> communicator;  // Guarded by mutex_.
  };

  void OnGo(const v1::Go& go);
  void OnSlots(const v1::Slots& slots);
  void OnActive(const v1::Attempt& attempt);
  void OnAborted(const v1::AttemptAborted& aborted);
  std::shared_ptr<Try> Find(const v1::Attempt& attempt) const;
  void Connect(const std::shared_ptr<Try>& attempt,
               const std::vector<std::string>& slots, size_t turn);
  void CollectSlots(const std::vector<std::shared_ptr<Try>>& tries,
                    v1::PublishSlotsRequest& request);
  void Report(const v1::Attempt& attempt, const absl::Status& status);
  void SendOutbox();

  const CoordinatorClient client_;
  CommunicatorFactory& factory_;
  CliqueTable& cliques_;
  const v1::Caller caller_;
  const bool check_cliques_;

  // By clique. Used by the thread of Run() only.
  std::map<std::string, std::shared_ptr<Try>> tries_;
  std::vector<std::thread> connects_;

  Mutex mutex_;
  CondVar changed_;
  // Whose slots have not been asked for.
  std::vector<std::shared_ptr<Try>> begun_ ABSL_GUARDED_BY(mutex_);
  size_t turn_ ABSL_GUARDED_BY(mutex_) = 0;  // Which of connects_ may check.
  v1::ReportCommunicatorsRequest reports_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread sender_;
};

}  // namespace shardwright

#endif  // WORKER_AGENT_FORMATION_H_
