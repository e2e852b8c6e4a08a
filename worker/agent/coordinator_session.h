// Keeps one process a member: registers, renews the lease, passes on news, and
// does so again after the coordinator, the network or the lease was lost, until
// it is told to stop or another process has the rank.

#ifndef WORKER_AGENT_COORDINATOR_SESSION_H_
#define WORKER_AGENT_COORDINATOR_SESSION_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cc/backoff.h"
#include "client/cc/coordinator_client.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

// Called by the session's thread, one call at a time. Must return soon.
class SessionListener {
 public:
  virtual ~SessionListener() = default;

  // Registered, anew or again: `generation` may have changed meanwhile.
  virtual void OnRegistered(int64_t generation) = 0;

  // The generation as of now, and who was lost since the last news.
  virtual void OnNews(int64_t generation,
                      const std::vector<v1::LostMember>& lost) = 0;

  // The coordinator is out of reach. Nothing has ended by that.
  virtual void OnDisconnected() = 0;

  // The coordinator counts this process as lost: its peers have been told so.
  virtual void OnLeaseLost() = 0;

  // The session is over for good. `why`:
  //   ABORTED FENCED, ALREADY_EXISTS MEMBER_ID_IN_USE: another process has the
  //       rank, and is alive.
  //   INVALID_ARGUMENT INVALID_MEMBER: it can never be a member.
  virtual void OnFatal(const absl::Status& why) = 0;
};

// Thread-safe.
class CoordinatorSession {
 public:
  // Starts at once. `listener` must outlive it. `request` names the member,
  // with an incarnation that stays the same for the life of the process.
  CoordinatorSession(CoordinatorClient client, v1::RegisterRequest request,
                     SessionListener& listener);

  // Ends the session, not the lease.
  ~CoordinatorSession();

  // What the coordinator shows to those who wait for this member, from the next
  // renewal on: 64 bytes at most.
  void SetPhase(const std::string& phase);
  std::string phase() const;

  // The caller of mutating requests, with the generation last heard of.
  v1::Caller caller() const;

 private:
  void Run();
  // Whether registered; false: wait and try again, or it is over.
  bool Register();
  // How long to wait after a refused Register(); fatal if it is of no use.
  void OnRefused(const absl::Status& status);
  void Hold();
  void Renew(SessionStream& stream);
  void OnResponse(const v1::SessionResponse& response);
  v1::SessionRequest NextRequest() const;
  void WaitFor(absl::Duration duration);
  bool stopping() const;
  void Fatal(const absl::Status& why);

  const CoordinatorClient client_;
  const v1::RegisterRequest request_;
  SessionListener& listener_;

  // Of the thread only.
  Backoff backoff_;
  // Incarnation that had the rank, and the coordinator's term.
  std::optional<std::pair<std::string, std::string>> holder_;
  absl::Duration retry_after_;
  absl::Duration renew_period_;
  std::string last_failure_;  // Logged once, not at every try.

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;            // All that follow: guarded by mutex_.
  SessionStream* stream_ = nullptr;  // While one is open.
  int64_t generation_ = 0;
  std::optional<int64_t> revision_;  // None: the next registration sets it.
  std::string phase_;

  std::thread thread_;
};

}  // namespace shardwright

#endif  // WORKER_AGENT_COORDINATOR_SESSION_H_
