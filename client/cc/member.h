// A Member is this process as a member of a job: registered, and its lease kept
// by a thread until it leaves.
//
// A coordinator that restarts or cannot be reached changes nothing for the
// member: the thread comes back with the same incarnation, and registers again
// where that is asked for. Membership ends for good when another process takes
// the rank, or the job has no such member any more; status() says so.
//
// Thread safety: thread-safe.

#ifndef CLIENT_CC_MEMBER_H_
#define CLIENT_CC_MEMBER_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cc/coordinator_client.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

class Member {
 public:
  struct Options {
    v1::MemberId id;
    v1::MemberFacts facts;

    // How long Join() may wait for a rank whose last holder may be dead.
    absl::Duration join_timeout = absl::Seconds(30);
  };

  // Registers, and waits for the lease of a holder that does not renew it: a
  // process that was killed. A holder that does renew it is alive, and the
  // error names it. A coordinator that restarts meanwhile starts the wait over:
  // it grants the dead a lease, too.
  //
  // Errors: of MembershipService.Register.
  static absl::StatusOr<std::unique_ptr<Member>> Join(CoordinatorClient client,
                                                      Options options);

  // Leaves, unless that has been done.
  ~Member();

  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  // For requests; with the generation last heard of.
  v1::Caller caller() const;

  // OK while a member; NOT_A_MEMBER after Leave(). Otherwise how membership
  // ended for good:
  //   ABORTED FENCED, ALREADY_EXISTS MEMBER_ID_IN_USE: another process has the
  //       rank.
  //   INVALID_ARGUMENT RANK_NOT_IN_LAYOUT, NOT_FOUND JOB_NOT_FOUND: the layout
  //       has no such rank any more.
  //   INVALID_ARGUMENT INVALID_MEMBER: such as a phase that is too long.
  absl::Status status() const;

  // What the process is doing, for those who wait for it; at most 64 bytes.
  void SetPhase(std::string phase);

  // Gives the lease up. The coordinator tells peers at once, if it can be
  // reached within CoordinatorClient::Leave's two seconds; otherwise the lease
  // runs out by itself. Stops the thread in any case.
  //
  // Errors: of CoordinatorClient::Leave, and what status() was.
  absl::Status Leave();

 private:
  Member(CoordinatorClient client, v1::MemberId id, v1::MemberFacts facts,
         uint64_t incarnation, const v1::RegisterResponse& grant);

  v1::RegisterRequest Registration() const;
  void KeepLease();
  absl::Status RunSession();
  absl::Status Renew(SessionStream& stream);
  void Read(SessionStream& stream);
  bool StoppedWithin(absl::Duration delay);

  const CoordinatorClient client_;
  const v1::MemberFacts facts_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  v1::Caller caller_;
  absl::Duration renew_period_;
  int64_t revision_ = 0;
  std::string phase_;
  bool phase_is_new_ = false;
  bool session_is_over_ = false;
  bool stopped_ = false;
  absl::Status status_;

  std::thread thread_;
};

}  // namespace shardwright

#endif  // CLIENT_CC_MEMBER_H_
