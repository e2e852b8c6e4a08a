// One FormCommunicators call, with the coordinator's side of it written out.
// Two members of one clique are two Formations over loopback communicators.

#include "worker/agent/formation.h"

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/cc/scripted_connection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/loopback_communicator.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const char kClique[] = "language/tp/0";

v1::Attempt AttemptNumber(int number) {
  v1::Attempt attempt;
  attempt.set_clique(kClique);
  attempt.set_term(1);
  attempt.set_number(number);
  return attempt;
}

// Keeps what it was asked for.
class RecordingFactory : public CommunicatorFactory {
 public:
  std::string backend() const override { return loopback_.backend(); }
  absl::StatusOr<std::unique_ptr<CommunicatorAttempt>> Begin(
      const CliqueAttempt& attempt) override {
    const MutexLock lock(mutex_);
    begun_.push_back(attempt);
    return loopback_.Begin(attempt);
  }
  std::vector<CliqueAttempt> begun() const {
    const MutexLock lock(mutex_);
    return begun_;
  }

 private:
  LoopbackFactory loopback_;
  mutable Mutex mutex_;
  std::vector<CliqueAttempt> begun_ ABSL_GUARDED_BY(mutex_);
};

// Connects, but to no use.
class BrokenFactory : public CommunicatorFactory {
 public:
  std::string backend() const override { return "broken"; }
  absl::StatusOr<std::unique_ptr<CommunicatorAttempt>> Begin(
      const CliqueAttempt& attempt) override {
    return std::make_unique<Attempt>(*loopback_.Begin(attempt));
  }

 private:
  class Attempt : public CommunicatorAttempt {
   public:
    explicit Attempt(std::unique_ptr<CommunicatorAttempt> loopback)
        : loopback_(std::move(loopback)) {}
    absl::StatusOr<std::map<int, std::string>> Slots() override {
      return loopback_->Slots();
    }
    absl::StatusOr<std::shared_ptr<Communicator>> Connect(
        const std::vector<std::string>& slots) override {
      auto connected = loopback_->Connect(slots);
      Abort(absl::AbortedError("a broken cable"));
      return connected;
    }
    void Abort(const absl::Status& why) override { loopback_->Abort(why); }

   private:
    const std::unique_ptr<CommunicatorAttempt> loopback_;
  };

  LoopbackFactory loopback_;
};

// A member with rank 10 + position, and the coordinator's side of its calls.
class Member {
 public:
  Member(int position, CommunicatorFactory& factory) : position_(position) {
    connection_->publish_slots = [this](const v1::PublishSlotsRequest& request)
        -> absl::StatusOr<v1::PublishSlotsResponse> {
      const MutexLock lock(mutex_);
      for (const v1::Slot& slot : request.slots()) slots_.push_back(slot);
      changed_.NotifyAll();
      return v1::PublishSlotsResponse();
    };
    connection_->report_communicators =
        [this](const v1::ReportCommunicatorsRequest& request)
        -> absl::StatusOr<v1::ReportCommunicatorsResponse> {
      const MutexLock lock(mutex_);
      for (const auto& report : request.reports()) reports_.push_back(report);
      changed_.NotifyAll();
      return v1::ReportCommunicatorsResponse();
    };
    cliques_.Reset({{kClique, "tp", {10, 11}, /*carries_rows=*/false}},
                   absl::OkStatus());
    v1::Caller caller;
    caller.mutable_member()->set_rank(10 + position);
    formation_ = std::make_unique<Formation>(CoordinatorClient(connection_),
                                             factory, cliques_, caller,
                                             /*check_cliques=*/true);
  }

  // Runs the call; `script` is the coordinator: it sends events by Send().
  absl::Status Run(const std::function<absl::Status()>& script) {
    connection_->form_communicators =
        [this, &script](const v1::FormCommunicatorsRequest&,
                        const ScriptedConnection::OnForm& on_event,
                        CallCanceller) {
          on_event_ = on_event;
          return script();
        };
    return formation_->Run(
        {}, [](const v1::Waiting&) {}, [] { return true; }, CallCanceller());
  }

  void Go(int number) {
    v1::FormCommunicatorsResponse event;
    *event.mutable_go()->mutable_attempt() = AttemptNumber(number);
    event.mutable_go()->add_ranks(10);
    event.mutable_go()->add_ranks(11);
    event.mutable_go()->add_slot_indexes(position_);
    event.mutable_go()->set_slot_count(2);
    on_event_(event);
  }
  void Slots(int number) {
    v1::FormCommunicatorsResponse event;
    *event.mutable_slots()->mutable_attempt() = AttemptNumber(number);
    event.mutable_slots()->add_values("loopback 0");
    event.mutable_slots()->add_values("loopback 1");
    on_event_(event);
  }
  void Active(int number) {
    v1::FormCommunicatorsResponse event;
    *event.mutable_active()->mutable_attempt() = AttemptNumber(number);
    on_event_(event);
  }
  void Aborted(int number) {
    v1::FormCommunicatorsResponse event;
    *event.mutable_aborted()->mutable_attempt() = AttemptNumber(number);
    event.mutable_aborted()->set_reason("PEER_LOST");
    event.mutable_aborted()->set_message("rank 11 is gone");
    on_event_(event);
  }

  // Wait for what the member sends.
  v1::Slot Slot() { return Take(slots_); }
  v1::CommunicatorReport Report() { return Take(reports_); }

  const CliqueTable& cliques() const { return cliques_; }
  void EndFormation() { formation_ = nullptr; }

 private:
  template <typename T>
  T Take(std::vector<T>& items) {
    MutexLock lock(mutex_);
    while (items.empty()) changed_.Wait(lock);
    T item = items.front();
    items.erase(items.begin());
    return item;
  }

  const int position_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<v1::Slot> slots_;
  std::vector<v1::CommunicatorReport> reports_;
  ScriptedConnection::OnForm on_event_;
  const std::shared_ptr<ScriptedConnection> connection_ =
      std::make_shared<ScriptedConnection>();
  CliqueTable cliques_;
  std::unique_ptr<Formation> formation_;
};

class FormationTest : public ::testing::Test {
 protected:
  // Both members run `script` at the same time.
  void RunBoth(const std::function<absl::Status(Member&)>& script) {
    std::thread other([&] {
      EXPECT_THAT(second_.Run([&] { return script(second_); }), IsOk());
    });
    EXPECT_THAT(first_.Run([&] { return script(first_); }), IsOk());
    other.join();
  }

  RecordingFactory factory_;
  Member first_{0, factory_};
  Member second_{1, factory_};
};

TEST_F(FormationTest, PublishesConnectsReportsAndInstalls) {
  RunBoth([](Member& member) {
    member.Go(1);
    EXPECT_THAT(member.Slot().value(), HasSubstr("loopback"));
    member.Slots(1);
    EXPECT_TRUE(member.Report().ok());
    EXPECT_THAT(member.cliques().InactiveKinds(), ElementsAre("tp"));
    member.Active(1);
    return absl::OkStatus();
  });
  EXPECT_THAT(first_.cliques().InactiveKinds(), ElementsAre());
  const auto clique = first_.cliques().WaitActive("tp", absl::ZeroDuration());
  ASSERT_THAT(clique, IsOk());
  EXPECT_EQ(clique->attempt.number(), 1);
  ASSERT_EQ(factory_.begun().size(), 2);
  EXPECT_EQ(factory_.begun()[0].clique, kClique);
  EXPECT_FALSE(factory_.begun()[0].carries_rows);
  // What is installed outlives the call.
  first_.EndFormation();
  second_.EndFormation();
  EXPECT_THAT(clique->communicator->status(), IsOk());
}

TEST_F(FormationTest, ACliqueThatConnectsButCannotMeetIsReported) {
  BrokenFactory factory;
  Member third(0, factory);
  Member fourth(1, factory);
  const auto form = [](Member& member) {
    return member.Run([&member] {
      member.Go(1);
      member.Slots(1);
      const v1::CommunicatorReport report = member.Report();
      EXPECT_FALSE(report.ok());
      return absl::OkStatus();
    });
  };
  std::thread other([&] { EXPECT_THAT(form(fourth), IsOk()); });
  EXPECT_THAT(form(third), IsOk());
  other.join();
  EXPECT_THAT(third.cliques().InactiveKinds(), ElementsAre("tp"));
}

TEST_F(FormationTest, AnAbortedAttemptIsNeverUsedAndTheNextOneIs) {
  RunBoth([](Member& member) {
    member.Go(1);
    member.Slot();
    member.Aborted(1);
    // Too late: it must not connect with these.
    member.Slots(1);
    member.Go(2);
    EXPECT_EQ(member.Slot().attempt().number(), 2);
    member.Slots(2);
    const v1::CommunicatorReport report = member.Report();
    EXPECT_EQ(report.attempt().number(), 2);
    EXPECT_TRUE(report.ok()) << report.message();
    member.Active(2);
    return absl::OkStatus();
  });
  EXPECT_THAT(second_.cliques().InactiveKinds(), ElementsAre());
}

TEST_F(FormationTest, TellsHowFarACliqueIs) {
  const auto state = [this] { return first_.cliques().List()[0].state; };
  EXPECT_THAT(first_.Run([&] {
    EXPECT_EQ(state(), v1::CliqueSummary::IDLE);
    first_.Go(1);
    EXPECT_EQ(state(), v1::CliqueSummary::EXCHANGING);
    EXPECT_EQ(first_.cliques().List()[0].attempt.number(), 1);
    first_.Slots(1);
    EXPECT_EQ(state(), v1::CliqueSummary::CONNECTING);
    first_.Aborted(1);
    EXPECT_EQ(state(), v1::CliqueSummary::GATHERING);
    return absl::OkStatus();
  }),
              IsOk());
}

TEST_F(FormationTest, AbortEndsAConnectThatWaitsForALostMember) {
  EXPECT_THAT(first_.Run([this] {
    first_.Go(1);
    first_.Slots(1);
    first_.Aborted(1);
    const v1::CommunicatorReport report = first_.Report();
    EXPECT_FALSE(report.ok());
    EXPECT_THAT(report.message(), HasSubstr("rank 11 is gone"));
    return absl::OkStatus();
  }),
              IsOk());
}

TEST_F(FormationTest, WhatIsNotActiveEndsWithTheCall) {
  EXPECT_THAT(first_.Run([this] {
    first_.Go(1);
    first_.Slots(1);
    return absl::UnavailableError("the coordinator is gone");
  }),
              StatusIs(absl::StatusCode::kUnavailable, testing::_));
  first_.EndFormation();  // Does not wait for the other member.
  EXPECT_THAT(first_.cliques().InactiveKinds(), ElementsAre("tp"));
}

TEST_F(FormationTest, SaysSoWhenItHasNotWhatTheCoordinatorTakesForActive) {
  EXPECT_THAT(first_.Run([this] {
    first_.Active(3);
    const v1::CommunicatorReport report = first_.Report();
    EXPECT_FALSE(report.ok());
    EXPECT_EQ(report.attempt().number(), 3);
    return absl::OkStatus();
  }),
              IsOk());
}

TEST_F(FormationTest, RefusesACliqueWithOtherMembersThanItsLayoutNames) {
  EXPECT_THAT(first_.Run([this] {
    first_.Go(1);
    return absl::OkStatus();
  }),
              IsOk());
  EXPECT_EQ(first_.Slot().attempt().number(), 1);
  Member stranger(5, factory_);
  EXPECT_THAT(stranger.Run([&] {
    stranger.Go(1);
    EXPECT_FALSE(stranger.Report().ok());
    return absl::OkStatus();
  }),
              IsOk());
}

}  // namespace
}  // namespace shardwright
