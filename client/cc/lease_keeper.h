// A LeaseKeeper keeps one process a member: it registers, renews the lease,
// passes on news, and does so again after the coordinator, the network or the
// lease was lost, until it is stopped or that has become pointless.

#ifndef CLIENT_CC_LEASE_KEEPER_H_
#define CLIENT_CC_LEASE_KEEPER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cc/backoff.h"
#include "client/cc/coordinator_client.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

// Called by the keeper's thread, one call at a time. Must return soon.
class LeaseListener {
 public:
  virtual ~LeaseListener() = default;

  // Registered, anew or again: the generation may have changed meanwhile.
  virtual void OnRegistered(const v1::RegisterResponse& grant) = 0;

  // Registering failed, and is tried again after `retry_in`.
  virtual void OnRefused(const absl::Status& why, absl::Duration retry_in) = 0;

  // The generation as of now, and who was lost since the last news.
  virtual void OnNews(int64_t generation,
                      const std::vector<v1::LostMember>& lost) = 0;

  // The coordinator is out of reach. Nothing has ended by that.
  virtual void OnDisconnected(const absl::Status& why) = 0;

  // The coordinator counts this process as lost: its peers have been told so.
  virtual void OnLeaseLost(const absl::Status& why) = 0;

  // The keeper has stopped for good. `why`:
  //   ABORTED FENCED, ALREADY_EXISTS MEMBER_ID_IN_USE: another process has the
  //       rank, and is alive.
  //   INVALID_ARGUMENT INVALID_MEMBER: it can never be a member.
  //   INVALID_ARGUMENT RANK_NOT_IN_LAYOUT, NOT_FOUND JOB_NOT_FOUND: unless the
  //       keeper waits for a layout.
  virtual void OnFatal(const absl::Status& why) = 0;
};

// A number for RegisterRequest.incarnation: random, not 0.
uint64_t RandomIncarnation();

// Thread-safe.
class LeaseKeeper {
 public:
  struct Options {
    // Names the member, with an incarnation that stays the same for the life of
    // the process.
    v1::RegisterRequest registration;

    // Whether a layout without this rank may yet be replaced by one with it.
    bool waits_for_layout = false;
  };

  // Starts at once. `listener` must outlive it.
  LeaseKeeper(CoordinatorClient client, Options options,
              LeaseListener& listener);

  // As Stop().
  ~LeaseKeeper();

  // Ends the session, not the lease. From then on the listener hears nothing.
  // May be repeated, by one thread.
  void Stop();

  // What the coordinator shows to those who wait for this member: cut at 64
  // bytes. Told at once, but ten times a second at most: of several the last.
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
  bool IsFatal(const absl::Status& status) const;
  void Hold();
  void OnSessionEnded(const absl::Status& end);
  void Renew(SessionStream& stream);
  void OnResponse(const v1::SessionResponse& response);
  v1::SessionRequest NextRequest();
  void WaitFor(absl::Duration duration);
  bool stopping() const;
  void Fatal(const absl::Status& why);

  const CoordinatorClient client_;
  const Options options_;
  LeaseListener& listener_;

  // Of the thread only.
  Backoff backoff_;
  // Incarnation that had the rank, and the coordinator's term.
  std::optional<std::pair<std::string, std::string>> holder_;
  absl::Duration retry_after_;
  absl::Duration renew_period_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // While one is open.
  SessionStream* stream_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  // None: the next registration sets it.
  std::optional<int64_t> revision_ ABSL_GUARDED_BY(mutex_);
  std::string phase_ ABSL_GUARDED_BY(mutex_);
  bool phase_is_new_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

}  // namespace shardwright

#endif  // CLIENT_CC_LEASE_KEEPER_H_
