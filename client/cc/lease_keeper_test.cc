// The keeper against a scripted coordinator: what it asks again, what it
// keeps, and when it gives up.

#include "client/cc/lease_keeper.h"

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cc/scripted_connection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/error.h"
#include "proto/status/status_matchers.h"
#include "proto/sync/mutex.h"

namespace shardwright {
namespace {

constexpr uint64_t kIncarnation = 99;

// Remembers what it was told, in words.
class Listener : public LeaseListener {
 public:
  void OnRegistered(const v1::RegisterResponse& grant) override {
    Add(absl::StrCat("registered ", grant.generation()));
  }
  void OnRefused(const absl::Status&, absl::Duration) override {}
  void OnNews(int64_t generation,
              const std::vector<v1::LostMember>& lost) override {
    std::string event = absl::StrCat("news ", generation);
    for (const v1::LostMember& member : lost) {
      absl::StrAppend(&event, " lost ", member.member().rank());
    }
    Add(event);
  }
  void OnDisconnected(const absl::Status&) override { Add("disconnected"); }
  void OnLeaseLost(const absl::Status&) override { Add("lease lost"); }
  void OnFatal(const absl::Status& why) override {
    Add(absl::StrCat("fatal ", ReasonOf(why)));
  }

  // Waits for the next thing.
  std::string Next() {
    MutexLock lock(mutex_);
    while (events_.empty()) changed_.Wait(lock);
    std::string event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  void Add(std::string event) {
    const MutexLock lock(mutex_);
    events_.push_back(std::move(event));
    changed_.NotifyAll();
  }

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::string> events_ ABSL_GUARDED_BY(mutex_);
};

class LeaseKeeperTest : public ::testing::Test {
 protected:
  LeaseKeeperTest() {
    connection_->on_register = [this](const v1::RegisterRequest& request)
        -> absl::StatusOr<v1::RegisterResponse> {
      const MutexLock lock(mutex_);
      EXPECT_EQ(request.incarnation(), kIncarnation);
      ++register_count_;
      if (!refusals_.empty()) {
        const absl::Status refusal = refusals_.front();
        refusals_.pop_front();
        return refusal;
      }
      v1::RegisterResponse response;
      response.set_generation(5);
      response.set_revision(revision_);
      response.mutable_renew_period()->set_seconds(renew_period_ms_ / 1000);
      response.mutable_renew_period()->set_nanos(renew_period_ms_ % 1000 *
                                                 1000000);
      return response;
    };
    connection_->open_session = [this] {
      const MutexLock lock(mutex_);
      wires_.push_back(std::make_shared<ScriptedSession::Wire>());
      changed_.NotifyAll();
      return std::make_unique<ScriptedSession>(wires_.back());
    };
  }

  void Start() {
    LeaseKeeper::Options options;
    options.registration.mutable_member()->set_job("vlm");
    options.registration.mutable_member()->set_rank(3);
    options.registration.set_incarnation(kIncarnation);
    options.waits_for_layout = waits_for_layout_;
    keeper_ = std::make_unique<LeaseKeeper>(CoordinatorClient(connection_),
                                            options, listener_);
  }

  // Waits for the member's n-th stream, from 0.
  std::shared_ptr<ScriptedSession::Wire> Stream(size_t n) {
    MutexLock lock(mutex_);
    while (wires_.size() <= n) changed_.Wait(lock);
    return wires_[n];
  }

  static v1::SessionResponse News(int64_t generation, int64_t revision) {
    v1::SessionResponse response;
    response.set_generation(generation);
    response.set_revision(revision);
    return response;
  }

  static absl::Status InUse(const std::string& holder) {
    return Error(absl::StatusCode::kAlreadyExists, "MEMBER_ID_IN_USE",
                 "rank 3 is process 17 on host a",
                 {{"holder_incarnation", holder}, {"lease_remaining_ms", "5"}});
  }
  static absl::Status InUse(const std::string& holder,
                            const std::string& term) {
    return Error(absl::StatusCode::kAlreadyExists, "MEMBER_ID_IN_USE",
                 "rank 3 is process 17 on host a",
                 {{"holder_incarnation", holder},
                  {"term", term},
                  {"lease_remaining_ms", "5"}});
  }

  Mutex mutex_;
  CondVar changed_;
  std::deque<absl::Status> refusals_;
  int64_t revision_ = 100;
  int renew_period_ms_ = 1;
  bool waits_for_layout_ = false;
  int register_count_ = 0;
  std::vector<std::shared_ptr<ScriptedSession::Wire>> wires_;

  const std::shared_ptr<ScriptedConnection> connection_ =
      std::make_shared<ScriptedConnection>();
  Listener listener_;
  std::unique_ptr<LeaseKeeper> keeper_;
};

TEST_F(LeaseKeeperTest, RenewsAgainAndAgainAndPassesNewsOn) {
  Start();
  EXPECT_EQ(listener_.Next(), "registered 5");
  const auto stream = Stream(0);
  v1::SessionRequest request = stream->Request();
  EXPECT_EQ(request.caller().incarnation(), kIncarnation);
  EXPECT_EQ(request.caller().generation(), 5);
  EXPECT_EQ(request.revision(), 100);
  v1::SessionResponse response = News(6, 107);
  response.add_lost_members()->mutable_member()->set_rank(2);
  stream->Answer(response);
  EXPECT_EQ(listener_.Next(), "news 6 lost 2");
  keeper_->SetPhase(std::string(100, 'p'));
  do {
    request = stream->Request();
  } while (request.phase().empty());
  EXPECT_EQ(request.phase().size(), 64u);
  EXPECT_EQ(request.revision(), 107);
  EXPECT_EQ(request.caller().generation(), 6);
}

TEST_F(LeaseKeeperTest, ARestartedCoordinatorFindsTheSameIncarnation) {
  Start();
  EXPECT_EQ(listener_.Next(), "registered 5");
  Stream(0)->Answer(News(5, 110));
  EXPECT_EQ(listener_.Next(), "news 5");
  {
    const MutexLock lock(mutex_);
    refusals_ = {absl::UnavailableError("down"),
                 absl::UnavailableError("down")};
    revision_ = 120;
  }
  Stream(0)->End(absl::UnavailableError("down"));
  EXPECT_EQ(listener_.Next(), "disconnected");
  EXPECT_EQ(listener_.Next(), "registered 5");
  // It wants to hear what it missed, from where it was.
  EXPECT_EQ(Stream(1)->Request().revision(), 110);
}

TEST_F(LeaseKeeperTest, ACoordinatorWithoutMemoryCountsFromItsOwnStart) {
  Start();
  EXPECT_EQ(listener_.Next(), "registered 5");
  {
    const MutexLock lock(mutex_);
    revision_ = 3;
  }
  Stream(0)->End(absl::UnavailableError("down"));
  EXPECT_EQ(listener_.Next(), "disconnected");
  EXPECT_EQ(listener_.Next(), "registered 5");
  EXPECT_EQ(Stream(1)->Request().revision(), 3);
}

TEST_F(LeaseKeeperTest, HearsOfTheFirstLossThatItMissed) {
  revision_ = 0;  // Nobody was ever lost.
  Start();
  EXPECT_EQ(listener_.Next(), "registered 5");
  {
    const MutexLock lock(mutex_);
    revision_ = 1;
  }
  Stream(0)->End(absl::UnavailableError("down"));
  EXPECT_EQ(listener_.Next(), "disconnected");
  EXPECT_EQ(listener_.Next(), "registered 5");
  EXPECT_EQ(Stream(1)->Request().revision(), 0);
}

TEST_F(LeaseKeeperTest, ALostLeaseAsksForNoOldNews) {
  Start();
  EXPECT_EQ(listener_.Next(), "registered 5");
  {
    const MutexLock lock(mutex_);
    revision_ = 120;
  }
  Stream(0)->End(Error(absl::StatusCode::kFailedPrecondition, "NOT_REGISTERED",
                       "the lease has expired"));
  EXPECT_EQ(listener_.Next(), "lease lost");
  EXPECT_EQ(listener_.Next(), "registered 5");
  EXPECT_EQ(Stream(1)->Request().revision(), 120);
}

TEST_F(LeaseKeeperTest, ALostLeaseIsToldAndRegisteredAgain) {
  Start();
  EXPECT_EQ(listener_.Next(), "registered 5");
  Stream(0)->End(Error(absl::StatusCode::kFailedPrecondition, "NOT_REGISTERED",
                       "the lease has expired"));
  EXPECT_EQ(listener_.Next(), "lease lost");
  EXPECT_EQ(listener_.Next(), "registered 5");
}

TEST_F(LeaseKeeperTest, WaitsForTheLeaseOfADeadHolder) {
  refusals_ = {InUse("41")};
  Start();
  EXPECT_EQ(listener_.Next(), "registered 5");
  EXPECT_EQ(register_count_, 2);
}

TEST_F(LeaseKeeperTest, GivesUpOnAHolderThatRenewsItsLease) {
  refusals_ = {InUse("41"), InUse("41")};
  Start();
  EXPECT_EQ(listener_.Next(), "fatal MEMBER_ID_IN_USE");
}

TEST_F(LeaseKeeperTest, WaitsForWhoeverIsInTheWayAsForAHolder) {
  const absl::Status gpu_in_use =
      Error(absl::StatusCode::kAlreadyExists, "GPU_IN_USE", "rank 4 has it",
            {{"holder_incarnation", "41"}, {"lease_remaining_ms", "5"}});
  refusals_ = {gpu_in_use, gpu_in_use};
  Start();
  EXPECT_EQ(listener_.Next(), "fatal GPU_IN_USE");
  EXPECT_EQ(register_count_, 2);
}

TEST_F(LeaseKeeperTest, AHolderOfAnotherTermIsNoProofThatItIsAlive) {
  refusals_ = {InUse("41", "1"), InUse("41", "2")};
  Start();
  EXPECT_EQ(listener_.Next(), "registered 5");
  EXPECT_EQ(register_count_, 3);
}

TEST_F(LeaseKeeperTest, GivesUpOnAHolderThatRenewsInTheNewTerm) {
  refusals_ = {InUse("41", "1"), InUse("41", "2"), InUse("41", "2")};
  Start();
  EXPECT_EQ(listener_.Next(), "fatal MEMBER_ID_IN_USE");
  EXPECT_EQ(register_count_, 3);
}

TEST_F(LeaseKeeperTest, TellsANewPhaseAtOnce) {
  renew_period_ms_ = 3600 * 1000;  // No renewal will tell it.
  Start();
  EXPECT_EQ(Stream(0)->Request().phase(), "");
  keeper_->SetPhase("ready");
  EXPECT_EQ(Stream(0)->Request().phase(), "ready");
}

TEST_F(LeaseKeeperTest, OfPhasesInATightLoopTellsTheLastOfEachTenthOfASecond) {
  renew_period_ms_ = 3600 * 1000;
  const absl::Time begin = absl::Now();
  Start();
  EXPECT_EQ(Stream(0)->Request().phase(), "");
  int set = 0;
  while (absl::Now() - begin < absl::Milliseconds(250)) {
    keeper_->SetPhase(absl::StrCat("step ", ++set));
  }
  keeper_->SetPhase("last");
  int told = 1;
  while (Stream(0)->Request().phase() != "last") ++told;
  EXPECT_LE(told, (absl::Now() - begin) / absl::Milliseconds(100) + 1);
  EXPECT_GT(set, told);
}

TEST_F(LeaseKeeperTest, WaitsForAJobThatIsNotThereYet) {
  waits_for_layout_ = true;
  refusals_ = {
      Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "no job vlm"),
      Error(absl::StatusCode::kInvalidArgument, "RANK_NOT_IN_LAYOUT", "no 3")};
  Start();
  EXPECT_EQ(listener_.Next(), "registered 5");
}

TEST_F(LeaseKeeperTest, WithoutALayoutToWaitForItGivesUp) {
  refusals_ = {
      Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "no job vlm")};
  Start();
  EXPECT_EQ(listener_.Next(), "fatal JOB_NOT_FOUND");
}

TEST_F(LeaseKeeperTest, AReplacedIncarnationIsOverForGood) {
  Start();
  EXPECT_EQ(listener_.Next(), "registered 5");
  Stream(0)->End(Error(absl::StatusCode::kAborted, "FENCED", "replaced"));
  EXPECT_EQ(listener_.Next(), "fatal FENCED");
}

}  // namespace
}  // namespace shardwright
