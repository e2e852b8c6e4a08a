// What can go wrong between a coordinator and its members, one story each, with
// nothing left to chance. A checker watches every step of them, so a scenario
// says only what it is about. Those under "Found" are bugs that simulation_test
// has found.

#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "tests/simulation/options.h"
#include "tests/simulation/simulation.h"

namespace shardwright {
namespace simulation {
namespace {

constexpr uint64_t kSeed = 1;

// Calls of the core itself, as by hand.
v1::Caller CallerOf(Rank rank, uint64_t incarnation, int64_t generation = 1) {
  v1::Caller caller;
  caller.mutable_member()->set_job("job-0");
  caller.mutable_member()->set_rank(rank);
  caller.mutable_member()->set_kind(v1::WORKER);
  caller.set_incarnation(incarnation);
  caller.set_generation(generation);
  return caller;
}

v1::RegisterRequest Registration(Rank rank, uint64_t incarnation) {
  v1::RegisterRequest request;
  *request.mutable_member() = CallerOf(rank, incarnation).member();
  request.set_incarnation(incarnation);
  return request;
}

v1::SessionRequest Renewal(Rank rank, uint64_t incarnation) {
  v1::SessionRequest request;
  *request.mutable_caller() = CallerOf(rank, incarnation);
  return request;
}

v1::FormCommunicatorsRequest Formation(const Simulation& sim,
                                       const v1::Caller& caller,
                                       int timeout_s) {
  v1::FormCommunicatorsRequest request;
  *request.mutable_caller() = caller;
  request.set_backend(v1::GLOO);
  request.set_layout_digest(
      sim.coordinator().FindLayout("job-0")->layout->digest());
  request.mutable_timeout()->set_seconds(timeout_s);
  request.add_kinds("tp");
  return request;
}

v1::WaitAtBarrierRequest Wait(const v1::Caller& caller, int timeout_s) {
  v1::WaitAtBarrierRequest request;
  *request.mutable_caller() = caller;
  request.set_name("step");
  request.mutable_timeout()->set_seconds(timeout_s);
  return request;
}

v1::PublishSlotsRequest Publication(const v1::Caller& caller,
                                    const v1::Attempt& attempt, int32_t index) {
  v1::PublishSlotsRequest request;
  *request.mutable_caller() = caller;
  v1::Slot& slot = *request.add_slots();
  *slot.mutable_attempt() = attempt;
  slot.set_index(index);
  slot.set_value("a slot");
  return request;
}

class ScenarioTest : public ::testing::Test {
 protected:
  void TearDown() override {
    ASSERT_FALSE(sim_.violation().has_value()) << *sim_.violation();
  }

  // Lets time pass until that has happened: RunUntil with the outcomes' name.
  bool RunUntilOutcome(const std::string& outcome) {
    const auto count = [&] {
      const auto found = sim_.outcomes().find(outcome);
      return found == sim_.outcomes().end() ? 0 : found->second;
    };
    const int64_t before = count();
    return sim_.RunUntil([&] { return count() > before; });
  }

  Simulation sim_{Options(), kSeed};
};

// Outcomes of a formation, in their order.
constexpr char kGo[] = "event 2";
constexpr char kSlots[] = "event 3";
constexpr char kActive[] = "event 4";

// The reply is lost, so the process asks again: it is the same member, and no
// other process can be.
TEST_F(ScenarioTest, RegisterLostReply) {
  ASSERT_THAT(sim_.Apply(LanguageLayout(2)), IsOk());
  const Step lost = sim_.Handle(Registration(0, 1000));
  const Step again = sim_.Handle(Registration(0, 1000));
  ASSERT_THAT(again.status, IsOk());
  EXPECT_EQ(again.registered.revision(), lost.registered.revision());
  EXPECT_EQ(again.registered.generation(), lost.registered.generation());
  EXPECT_THAT(sim_.Handle(Registration(0, 2000)).status,
              HasReason("MEMBER_ID_IN_USE"));
}

// A launcher starts a rank twice. The second process waits for a lease that
// does not run out, and gives up; the first is not disturbed.
TEST_F(ScenarioTest, DoubleLaunchSameMember) {
  ASSERT_TRUE(sim_.RunUntilFormed(4));
  const Simulation::ProcessPtr second = sim_.Launch(2);
  ASSERT_TRUE(sim_.RunUntil([&] { return !second->alive(); }));
  EXPECT_EQ(second->end_reason(), "MEMBER_ID_IN_USE");
  EXPECT_TRUE(sim_.AllFormed());
  EXPECT_EQ(sim_.outcomes().count("event 5"), 0);  // Nothing was aborted.
}

// A worker that pauses past its lease and wakes up must not take part in what
// its successor does: its collective would hang every healthy rank.
TEST_F(ScenarioTest, RestartedMemberFencesZombie) {
  ASSERT_TRUE(sim_.RunUntilFormed(4));
  const Simulation::ProcessPtr zombie = sim_.processes()[2];
  zombie->Pause();
  sim_.Advance(absl::Seconds(11));
  sim_.Launch(2);
  ASSERT_TRUE(sim_.RunUntil([&] { return sim_.AllFormed(); }));

  zombie->Resume();
  ASSERT_TRUE(sim_.RunUntil([&] { return !zombie->alive(); }));
  EXPECT_EQ(zombie->end_reason(), "FENCED");
  EXPECT_TRUE(sim_.AllFormed());
}

// A message of the zombie that was on its way all the time.
TEST_F(ScenarioTest, ALateSlotOfAReplacedProcessIsRefused) {
  ASSERT_TRUE(sim_.RunUntilFormed(2));
  const uint64_t zombie = sim_.processes()[1]->incarnation();
  sim_.Crash(1);
  sim_.Advance(absl::Seconds(11));
  sim_.Launch(1);
  ASSERT_TRUE(RunUntilOutcome(kGo));
  v1::Attempt attempt = sim_.last_attempt();
  EXPECT_THAT(sim_.Handle(Publication(CallerOf(1, zombie), attempt, 1)).status,
              HasReason("FENCED"));
  ASSERT_TRUE(sim_.RunUntil([&] { return sim_.AllFormed(); }));
}

// A member dies when two have their slots. What they have is worth nothing: the
// next attempt has other slots, and a slot for the old one comes too late.
TEST_F(ScenarioTest, StaleIdNeverServed) {
  ASSERT_THAT(sim_.Apply(LanguageLayout(3)), IsOk());
  for (Rank rank = 0; rank < 3; ++rank) sim_.Launch(rank);
  ASSERT_TRUE(RunUntilOutcome(kSlots));
  const v1::Attempt old = sim_.last_attempt();
  sim_.Crash(2);
  sim_.Launch(2);
  ASSERT_TRUE(sim_.RunUntil([&] { return sim_.AllFormed(); }));
  EXPECT_GT(sim_.last_attempt().number(), old.number());
  const v1::Caller caller = CallerOf(0, sim_.processes()[0]->incarnation());
  EXPECT_THAT(sim_.Handle(Publication(caller, old, 0)).status,
              HasReason("STALE_ATTEMPT"));
}

// Whoever dies, and whenever: the others form with its successor, within the
// lease and what connecting takes.
TEST_F(ScenarioTest, RootDiesBeforeGo) {
  ASSERT_THAT(sim_.Apply(LanguageLayout(3)), IsOk());
  const Simulation::ProcessPtr root = sim_.Launch(0);
  sim_.Launch(1);
  ASSERT_TRUE(RunUntilOutcome("FormCommunicators "));
  root->Crash();
  sim_.Launch(2);
  sim_.Launch(0);
  ASSERT_TRUE(
      sim_.RunUntil([&] { return sim_.AllFormed(); }, absl::Seconds(15)));
}

TEST_F(ScenarioTest, RootDiesAfterGo) {
  ASSERT_THAT(sim_.Apply(LanguageLayout(3)), IsOk());
  for (Rank rank = 0; rank < 3; ++rank) sim_.Launch(rank);
  ASSERT_TRUE(RunUntilOutcome(kGo));
  sim_.Crash(0);
  sim_.Launch(0);
  ASSERT_TRUE(
      sim_.RunUntil([&] { return sim_.AllFormed(); }, absl::Seconds(15)));
  EXPECT_GT(sim_.outcomes().at("event 5"), 0);
}

// The coordinator dies in each state of an attempt. The layout stays, the
// members stay, and a higher term forms their communicators.
class LeaderKillTest : public ScenarioTest,
                       public ::testing::WithParamInterface<const char*> {};

TEST_P(LeaderKillTest, FormationCompletesInTheNextTerm) {
  ASSERT_THAT(sim_.Apply(LanguageLayout(4)), IsOk());
  for (Rank rank = 0; rank < 4; ++rank) sim_.Launch(rank);
  ASSERT_TRUE(RunUntilOutcome(GetParam()));
  sim_.CrashCoordinator();
  sim_.Advance(absl::Seconds(3));
  sim_.StartCoordinator();
  ASSERT_TRUE(sim_.RunUntil([&] { return sim_.AllFormed(); }));
  EXPECT_EQ(sim_.coordinator().checker().store().term(), 2);
  EXPECT_EQ(sim_.coordinator().FindLayout("job-0")->generation(), 1);
  for (const Simulation::ProcessPtr& process : sim_.processes()) {
    EXPECT_TRUE(process->alive()) << process->Describe();
  }
}

INSTANTIATE_TEST_SUITE_P(InEachState, LeaderKillTest,
                         ::testing::Values("FormCommunicators ", kGo, kSlots,
                                           "ReportCommunicators ", kActive));

// The disk is full while leases run out and a layout is applied: who applies is
// told, nothing else is said, and all happens when there is room.
TEST_F(ScenarioTest, AFullDiskChangesNothingUntilThereIsRoom) {
  ASSERT_TRUE(sim_.RunUntilFormed(4));
  sim_.options().store_refuses = 1;
  sim_.Crash(3);
  sim_.Advance(absl::Seconds(20));
  EXPECT_THAT(sim_.Apply(LanguageLayout(3)), HasReason("STORE_FAILED"));
  EXPECT_EQ(sim_.coordinator().FindLayout("job-0")->generation(), 1);
  EXPECT_TRUE(
      sim_.coordinator().checker().store().IsLive(sim_.processes()[3]->seat()));

  sim_.options().store_refuses = 0;
  ASSERT_THAT(sim_.Apply(LanguageLayout(3)), IsOk());
  ASSERT_TRUE(sim_.RunUntil([&] { return sim_.AllFormed(); }));
}

// Many calls wait when a new layout comes: each of them ends, at once.
TEST_F(ScenarioTest, FailureReachesAllWaiters) {
  ASSERT_THAT(sim_.Apply(LanguageLayout(1000)), IsOk());
  std::vector<StreamId> waits;
  for (Rank rank = 0; rank < 999; ++rank) {
    ASSERT_THAT(sim_.Handle(Registration(rank, 1 + rank)).status, IsOk());
    const Step wait = sim_.Handle(Wait(CallerOf(rank, 1 + rank), 60));
    ASSERT_THAT(wait.status, IsOk());
    waits.push_back(wait.stream);
  }
  ASSERT_THAT(sim_.Apply(LanguageLayout(999)), IsOk());
  for (const StreamId wait : waits) {
    ASSERT_TRUE(sim_.EndOf(wait).has_value());
    EXPECT_THAT(*sim_.EndOf(wait), HasReason("STALE_GENERATION"));
  }
}

// The coordinator dies around a write. If it was stored it holds, though nobody
// was told; and who asks again is answered as if the first answer was lost.
TEST_F(ScenarioTest, AWriteThatNobodyWasToldOfHolds) {
  ASSERT_TRUE(sim_.RunUntilFormed(2));
  for (int64_t generation = 1; generation == 1;) {
    sim_.options().crash_around_write = 1;
    EXPECT_FALSE(sim_.Apply(LanguageLayout(3)).ok());
    sim_.options().crash_around_write = 0;
    sim_.StartCoordinator();
    generation = sim_.coordinator().FindLayout("job-0")->generation();
  }
  EXPECT_THAT(sim_.Apply(LanguageLayout(3)), IsOk());
  EXPECT_EQ(sim_.coordinator().FindLayout("job-0")->generation(), 2);
  sim_.Launch(2);
  ASSERT_TRUE(sim_.RunUntil([&] { return sim_.AllFormed(); }));
}

// --- Found.

// Rank 1 gives up at a barrier and dies later; rank 2 never comes. Who waits
// longer must be told of both: the dead one does not come back by itself.
TEST_F(ScenarioTest, ADeadMemberIsNamedThoughItGaveUpAtTheBarrier) {
  ASSERT_THAT(sim_.Apply(LanguageLayout(3)), IsOk());
  sim_.Handle(Registration(0, 1000));
  sim_.Handle(Registration(1, 1001));
  const StreamId wait = sim_.Handle(Wait(CallerOf(0, 1000), 14)).stream;
  sim_.Handle(Wait(CallerOf(1, 1001), 1));
  sim_.Advance(absl::Seconds(5));
  sim_.Handle(Renewal(0, 1000));
  sim_.Advance(absl::Seconds(10));

  ASSERT_TRUE(sim_.EndOf(wait).has_value());
  EXPECT_THAT(*sim_.EndOf(wait), HasReason("MEMBERS_MISSING"));
  EXPECT_EQ(DetailOf(*sim_.EndOf(wait)).missing().ranges(), "1-2");
}

// The same at a clique, when somebody was told who is missing in between.
TEST_F(ScenarioTest, ADeadMemberIsNamedThoughItGaveUpForming) {
  ASSERT_THAT(sim_.Apply(LanguageLayout(3)), IsOk());
  sim_.Handle(Registration(0, 1000));
  sim_.Handle(Registration(1, 1001));
  const StreamId form =
      sim_.Handle(Formation(sim_, CallerOf(0, 1000), 14)).stream;
  sim_.Handle(Formation(sim_, CallerOf(1, 1001), 1));
  sim_.Advance(absl::Seconds(5));
  sim_.Handle(Renewal(0, 1000));
  sim_.Advance(absl::Seconds(10));

  ASSERT_TRUE(sim_.EndOf(form).has_value());
  EXPECT_THAT(*sim_.EndOf(form), HasReason("MEMBERS_MISSING"));
  EXPECT_EQ(DetailOf(*sim_.EndOf(form)).missing().ranges(), "1-2");
}

}  // namespace
}  // namespace simulation
}  // namespace shardwright
