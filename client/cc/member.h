// A Member is this process as a member of a job: registered, and its lease kept
// by a thread until it leaves.
//
// A coordinator that restarts or cannot be reached changes nothing for the
// member: it comes back with the same incarnation, and registers again where
// that is asked for. Membership ends for good when another process takes the
// rank, or the job has no such member any more; status() says so.
//
// Thread safety: thread-safe.

#ifndef CLIENT_CC_MEMBER_H_
#define CLIENT_CC_MEMBER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cc/coordinator_client.h"
#include "client/cc/lease_keeper.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

class Member : private LeaseListener {
 public:
  struct Options {
    v1::MemberId id;
    v1::MemberFacts facts;

    // How long Join() may wait for a rank whose last holder may be dead, or for
    // a coordinator that is away or overloaded.
    absl::Duration join_timeout = absl::Seconds(30);
  };

  // Registers, and waits for the lease of a holder that does not renew it: a
  // process that was killed. A holder that does renew it is alive, and the
  // error names it. A coordinator that restarts meanwhile starts the wait over:
  // it grants the dead a lease, too.
  //
  // Errors: of MembershipService.Register.
  static absl::StatusOr<std::unique_ptr<Member>> Join(CoordinatorClient client,
                                                      const Options& options);

  // Leaves, unless that has been done.
  ~Member() override;

  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  // For requests; with the generation last heard of.
  v1::Caller caller() const { return keeper_->caller(); }

  // OK while a member; NOT_A_MEMBER after Leave(). Otherwise how membership
  // ended for good: as LeaseListener::OnFatal() has it.
  absl::Status status() const;

  // What the process is doing, for those who wait for it; at most 64 bytes.
  void SetPhase(const std::string& phase) { keeper_->SetPhase(phase); }

  // Gives the lease up. The coordinator tells peers at once, if it can be
  // reached within CoordinatorClient::Leave's two seconds; otherwise the lease
  // runs out by itself. Stops the thread in any case.
  //
  // Errors: of CoordinatorClient::Leave, and what status() was.
  absl::Status Leave();

 private:
  Member(CoordinatorClient client, const Options& options);

  absl::Status WaitUntilJoined();

  void OnRegistered(const v1::RegisterResponse& grant) override;
  void OnRefused(const absl::Status& why, absl::Duration retry_in) override;
  void OnNews(int64_t, const std::vector<v1::LostMember>&) override {}
  void OnDisconnected(const absl::Status&) override {}
  void OnLeaseLost(const absl::Status&) override {}
  void OnFatal(const absl::Status& why) override;

  const CoordinatorClient client_;
  const absl::Time join_deadline_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool joined_ ABSL_GUARDED_BY(mutex_) = false;
  bool left_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);

  std::unique_ptr<LeaseKeeper> keeper_;
};

}  // namespace shardwright

#endif  // CLIENT_CC_MEMBER_H_
