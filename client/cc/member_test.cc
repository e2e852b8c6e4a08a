// The life of a member against a scripted Connection: no server, no clock.

#include "client/cc/member.h"

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "client/cc/unimplemented_connection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/error.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;

absl::Status InUse(const std::string& holder) {
  return Error(absl::StatusCode::kAlreadyExists, "MEMBER_ID_IN_USE",
               "rank 5 is held by pid 77 on host-a",
               {{"holder_incarnation", holder}, {"lease_remaining_ms", "1"}});
}

// A coordinator of one member, as much of it as a member sees.
class ScriptedCoordinator : public UnimplementedConnection {
 public:
  // What Register answers, one a call, before it grants.
  std::deque<absl::Status> refusals;

  // What Leave answers.
  absl::Status leave_answer;

  // Messages of a session remain unanswered.
  bool is_silent = false;

  // What Register answers once, from now on.
  void RefuseNext(absl::Status refusal) {
    const MutexLock lock(mutex_);
    refusals.push_back(std::move(refusal));
  }

  // Ends the session that is open, or the next one.
  void EndSession(absl::Status status) {
    const MutexLock lock(mutex_);
    session_end_ = std::move(status);
    has_end_ = true;
    changed_.NotifyAll();
  }

  void WaitForMessage(int64_t message_count) {
    MutexLock lock(mutex_);
    while (message_count_ < message_count) changed_.Wait(lock);
  }
  void WaitForRegistration(int count) {
    MutexLock lock(mutex_);
    while (register_count_ < count) changed_.Wait(lock);
  }
  void WaitForPhase(const std::string& phase) {
    MutexLock lock(mutex_);
    while (phase_ != phase) changed_.Wait(lock);
  }
  int register_count() {
    const MutexLock lock(mutex_);
    return register_count_;
  }
  int leave_count() {
    const MutexLock lock(mutex_);
    return leave_count_;
  }
  int session_count() {
    const MutexLock lock(mutex_);
    return session_count_;
  }
  uint64_t incarnation() {
    const MutexLock lock(mutex_);
    return incarnation_;
  }

  absl::StatusOr<v1::RegisterResponse> Register(
      const v1::RegisterRequest& request) override {
    const MutexLock lock(mutex_);
    ++register_count_;
    changed_.NotifyAll();
    if (!refusals.empty()) {
      absl::Status refusal = refusals.front();
      refusals.pop_front();
      return refusal;
    }
    incarnation_ = request.incarnation();
    v1::RegisterResponse response;
    response.set_generation(register_count_);
    response.mutable_renew_period()->set_nanos(1'000'000);
    return response;
  }

  absl::StatusOr<v1::LeaveResponse> Leave(
      const v1::LeaveRequest& request) override {
    const MutexLock lock(mutex_);
    ++leave_count_;
    if (!leave_answer.ok()) return leave_answer;
    return v1::LeaveResponse();
  }

  std::unique_ptr<SessionStream> OpenSession() override {
    const MutexLock lock(mutex_);
    ++session_count_;
    return std::make_unique<Stream>(*this);
  }

 private:
  // Answers each message once.
  class Stream : public SessionStream {
   public:
    explicit Stream(ScriptedCoordinator& owner) : owner_(owner) {}

    bool Write(const v1::SessionRequest& request) override {
      const MutexLock lock(owner_.mutex_);
      if (owner_.has_end_ || cancelled_) return false;
      ++owner_.message_count_;
      owner_.phase_ = request.phase();
      if (!owner_.is_silent) ++unanswered_;
      owner_.changed_.NotifyAll();
      return true;
    }
    bool Read(v1::SessionResponse* response) override {
      MutexLock lock(owner_.mutex_);
      while (unanswered_ == 0 && !owner_.has_end_ && !cancelled_) {
        owner_.changed_.Wait(lock);
      }
      if (owner_.has_end_ || cancelled_) return false;
      --unanswered_;
      response->set_generation(100);
      return true;
    }
    void Cancel() override {
      const MutexLock lock(owner_.mutex_);
      cancelled_ = true;
      owner_.changed_.NotifyAll();
    }
    absl::Status Finish() override {
      const MutexLock lock(owner_.mutex_);
      if (!owner_.has_end_) return absl::CancelledError("");
      owner_.has_end_ = false;
      return owner_.session_end_;
    }

   private:
    ScriptedCoordinator& owner_;
    int unanswered_ ABSL_GUARDED_BY(owner_.mutex_) = 0;
    bool cancelled_ ABSL_GUARDED_BY(owner_.mutex_) = false;
  };

  Mutex mutex_;
  CondVar changed_;
  int register_count_ ABSL_GUARDED_BY(mutex_) = 0;
  int leave_count_ ABSL_GUARDED_BY(mutex_) = 0;
  int session_count_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t message_count_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t incarnation_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string phase_ ABSL_GUARDED_BY(mutex_);
  bool has_end_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status session_end_ ABSL_GUARDED_BY(mutex_);
};

class MemberTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Member>> Join() {
    Member::Options options;
    options.id.set_job("vlm");
    options.id.set_rank(5);
    options.id.set_kind(v1::TRAINER);
    return Member::Join(CoordinatorClient(coordinator_), options);
  }

  // Until the member has taken in an answer: those tell generation 100.
  static void WaitForAnswer(const Member& member) {
    while (member.caller().generation() != 100) std::this_thread::yield();
  }

  std::shared_ptr<ScriptedCoordinator> coordinator_ =
      std::make_shared<ScriptedCoordinator>();
};

TEST_F(MemberTest, KeepsRenewingAndLeavesOnce) {
  auto member = Join();
  ASSERT_THAT(member, IsOk());
  coordinator_->WaitForMessage(5);
  WaitForAnswer(**member);
  EXPECT_NE((*member)->caller().incarnation(), 0);
  EXPECT_THAT((*member)->status(), IsOk());
  EXPECT_THAT((*member)->Leave(), IsOk());
  EXPECT_THAT((*member)->status(), HasReason("NOT_A_MEMBER"));
  member->reset();
  EXPECT_EQ(coordinator_->leave_count(), 1);
}

TEST_F(MemberTest, TellsItsPhaseAndLearnsTheGeneration) {
  auto member = Join();
  ASSERT_THAT(member, IsOk());
  (*member)->SetPhase("step 12");
  coordinator_->WaitForPhase("step 12");
  WaitForAnswer(**member);
}

TEST_F(MemberTest, WaitsForTheLeaseOfAHolderThatDoesNotRenewIt) {
  coordinator_->refusals = {InUse("aa")};
  ASSERT_THAT(Join(), IsOk());
  EXPECT_EQ(coordinator_->register_count(), 2);
}

TEST_F(MemberTest, WaitsForACoordinatorThatIsAwayOrOverloaded) {
  coordinator_->refusals = {
      Error(absl::StatusCode::kUnavailable, "UNREACHABLE", "no connection"),
      Error(absl::StatusCode::kResourceExhausted, "OVERLOADED", "later")};
  ASSERT_THAT(Join(), IsOk());
  EXPECT_EQ(coordinator_->register_count(), 3);
}

TEST_F(MemberTest, GivesUpOnAHolderThatIsAlive) {
  coordinator_->refusals = {InUse("aa"), InUse("aa"), InUse("aa")};
  EXPECT_THAT(Join(), StatusIs(absl::StatusCode::kAlreadyExists,
                               HasSubstr("pid 77 on host-a")));
  EXPECT_EQ(coordinator_->register_count(), 2);
}

TEST_F(MemberTest, LeavesBeforeItsSessionHasBeenAnswered) {
  coordinator_->is_silent = true;
  auto member = Join();
  ASSERT_THAT(member, IsOk());
  EXPECT_THAT((*member)->Leave(), IsOk());
  EXPECT_EQ(coordinator_->leave_count(), 1);
}

TEST_F(MemberTest, IsNoMemberEvenIfItCouldNotTellThatItLeft) {
  coordinator_->leave_answer =
      Error(absl::StatusCode::kUnavailable, "UNREACHABLE", "no connection");
  auto member = Join();
  ASSERT_THAT(member, IsOk());
  EXPECT_THAT((*member)->Leave(), HasReason("UNREACHABLE"));
  EXPECT_THAT((*member)->status(), HasReason("NOT_A_MEMBER"));
  EXPECT_EQ(coordinator_->leave_count(), 1);
}

TEST_F(MemberTest, ComesBackAfterTheCoordinatorRestarts) {
  auto member = Join();
  ASSERT_THAT(member, IsOk());
  coordinator_->WaitForMessage(1);
  const uint64_t incarnation = coordinator_->incarnation();
  coordinator_->EndSession(absl::UnavailableError("restarting"));
  coordinator_->WaitForMessage(3);
  EXPECT_EQ(coordinator_->register_count(), 2);

  coordinator_->EndSession(Error(absl::StatusCode::kFailedPrecondition,
                                 "NOT_REGISTERED", "no such member"));
  coordinator_->WaitForRegistration(3);
  EXPECT_EQ(coordinator_->incarnation(), incarnation);
  EXPECT_THAT((*member)->status(), IsOk());
}

TEST_F(MemberTest, IsOverForGoodWhenFenced) {
  auto member = Join();
  ASSERT_THAT(member, IsOk());
  coordinator_->EndSession(
      Error(absl::StatusCode::kAborted, "FENCED", "rank 5 was taken"));
  while ((*member)->status().ok()) std::this_thread::yield();
  EXPECT_THAT((*member)->status(), HasReason("FENCED"));
  EXPECT_THAT((*member)->Leave(), HasReason("FENCED"));
  EXPECT_EQ(coordinator_->leave_count(), 0);
}

class RefusalTest : public MemberTest,
                    public ::testing::WithParamInterface<std::string> {};

TEST_P(RefusalTest, IsOverForGoodWhenWaitingCannotHelp) {
  auto member = Join();
  ASSERT_THAT(member, IsOk());
  coordinator_->RefuseNext(
      Error(absl::StatusCode::kInvalidArgument, GetParam(), "not any more"));
  coordinator_->EndSession(Error(absl::StatusCode::kFailedPrecondition,
                                 "NOT_REGISTERED", "no such member"));
  // A member that goes on opens another session.
  while ((*member)->status().ok() && coordinator_->session_count() < 2) {
    std::this_thread::yield();
  }
  EXPECT_THAT((*member)->status(), HasReason(GetParam()));
  EXPECT_EQ(coordinator_->session_count(), 1);
}

INSTANTIATE_TEST_SUITE_P(Reasons, RefusalTest,
                         ::testing::Values("RANK_NOT_IN_LAYOUT",
                                           "JOB_NOT_FOUND", "INVALID_MEMBER"));

}  // namespace
}  // namespace shardwright
