// Layouts and generations, and what a new layout does to everything else; and
// what a restart on the same store keeps.

#include "coordinator/core/coordinator_core.h"

#include "coordinator/core/core_driver.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::SizeIs;

class CoordinatorCoreTest : public ::testing::Test {
 protected:
  absl::StatusOr<v1::ApplyLayoutResponse> ApplyIf(int64_t generation,
                                                  const v1::Layout& layout,
                                                  bool dry_run = false) {
    v1::ApplyLayoutRequest request;
    *request.mutable_layout() = layout;
    if (generation >= 0) request.set_if_generation(generation);
    request.set_dry_run(dry_run);
    Effects effects;
    return driver_.core().ApplyLayout(request, driver_.now(), effects);
  }
  int64_t Generation() {
    return driver_.core().FindLayout("job")->generation();
  }

  CoreDriver driver_;
};

TEST_F(CoordinatorCoreTest, GenerationGrowsWithTheLayoutOnly) {
  EXPECT_EQ(driver_.Apply(CoreDriver::LanguageOnly(2))->generation(), 1);
  const auto equal = driver_.Apply(CoreDriver::LanguageOnly(2));
  EXPECT_EQ(equal->generation(), 1);
  EXPECT_FALSE(equal->changed());
  const auto other = driver_.Apply(CoreDriver::LanguageOnly(4));
  EXPECT_EQ(other->generation(), 2);
  EXPECT_TRUE(other->changed());
  EXPECT_NE(other->digest(), equal->digest());
  // The first layout again is a new generation again.
  EXPECT_EQ(driver_.Apply(CoreDriver::LanguageOnly(2))->generation(), 3);
}

TEST_F(CoordinatorCoreTest, ABadLayoutChangesNothing) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  v1::Layout bad = CoreDriver::LanguageOnly(2);
  bad.set_world_size(3);
  const auto applied = driver_.Apply(bad);
  EXPECT_THAT(applied, HasReason("INVALID_LAYOUT"));
  EXPECT_GT(DetailOf(applied.status()).violations_size(), 0);
  EXPECT_EQ(Generation(), 1);
}

TEST_F(CoordinatorCoreTest, ARefusedCallLeavesTheEarlierOneAsItWas) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  const TestMember zero = driver_.Join(0);
  ASSERT_THAT(driver_.Form(1, zero), IsOk());
  ASSERT_THAT(driver_.Form(2, driver_.Join(1)), IsOk());
  const size_t told = driver_.stream(2).events.size();
  EXPECT_THAT(driver_.Form(3, zero, {{"tp", "mp"}, absl::Minutes(1), v1::NCCL}),
              HasReason("LAYOUT_MISMATCH"));
  EXPECT_FALSE(driver_.stream(1).end.has_value());
  EXPECT_THAT(driver_.stream(2).events, SizeIs(told));
  EXPECT_THAT(driver_.Publish(zero, driver_.LastGo(1), 0, "slot"), IsOk());
  v1::ListCommunicatorsRequest all;
  all.set_job("job");
  Effects effects;
  const auto known =
      driver_.core().ListCommunicators(all, driver_.now(), effects);
  ASSERT_THAT(known, IsOk());
  EXPECT_THAT(known->cliques(), SizeIs(1));  // None of kind mp.
}

TEST_F(CoordinatorCoreTest, CompareAndSetOnGeneration) {
  EXPECT_THAT(ApplyIf(1, CoreDriver::LanguageOnly(2)),
              HasReason("STALE_GENERATION"));
  EXPECT_THAT(ApplyIf(0, CoreDriver::LanguageOnly(2)), IsOk());
  const auto stale = ApplyIf(0, CoreDriver::LanguageOnly(4));
  EXPECT_THAT(stale, HasReason("STALE_GENERATION"));
  EXPECT_EQ(DetailOf(stale.status()).metadata().at("current_generation"), "1");
  EXPECT_THAT(ApplyIf(1, CoreDriver::LanguageOnly(4)), IsOk());
  // The repeat of a request whose answer was lost.
  const auto repeat = ApplyIf(1, CoreDriver::LanguageOnly(4));
  ASSERT_THAT(repeat, IsOk());
  EXPECT_EQ(repeat->generation(), 2);
  EXPECT_FALSE(repeat->changed());
  EXPECT_THAT(ApplyIf(0, CoreDriver::LanguageOnly(4)),
              HasReason("STALE_GENERATION"));
}

TEST_F(CoordinatorCoreTest, DryRunAnswersAsIfAndChangesNothing) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  const int commits = driver_.store().commit_count;
  const auto trial = ApplyIf(-1, CoreDriver::LanguageOnly(4), true);
  ASSERT_THAT(trial, IsOk());
  EXPECT_EQ(trial->generation(), 2);
  EXPECT_TRUE(trial->changed());
  EXPECT_EQ(Generation(), 1);
  EXPECT_EQ(driver_.store().commit_count, commits);
}

TEST_F(CoordinatorCoreTest, AFailedWriteAppliesNothing) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4)), IsOk());
  const TestMember zero = driver_.Join(0), three = driver_.Join(3);
  ASSERT_THAT(driver_.Session(1, zero), IsOk());
  ASSERT_THAT(driver_.Session(2, three), IsOk());
  driver_.store().full = true;
  EXPECT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)),
              HasReason("STORE_FAILED"));
  driver_.store().full = false;
  EXPECT_EQ(Generation(), 1);
  EXPECT_THAT(driver_.stream(1).news, SizeIs(1));
  EXPECT_FALSE(driver_.stream(2).end.has_value());
  EXPECT_EQ(driver_.Apply(CoreDriver::LanguageOnly(2))->generation(), 2);
}

TEST_F(CoordinatorCoreTest, ANewLayoutIsToldToSessionsAndEndsWaits) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4)), IsOk());
  TestMember zero = driver_.Join(0);
  const TestMember one = driver_.Join(1), three = driver_.Join(3);
  ASSERT_THAT(driver_.Session(1, zero), IsOk());
  ASSERT_THAT(driver_.Session(2, three), IsOk());
  ASSERT_THAT(driver_.Form(3, zero), IsOk());
  ASSERT_THAT(driver_.Wait(4, one, 1), IsOk());
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());

  const v1::SessionResponse& news = driver_.stream(1).news.back();
  EXPECT_EQ(news.generation(), 2);
  ASSERT_THAT(news.lost_members(), SizeIs(1));
  EXPECT_EQ(news.lost_members(0).member().rank(), 3);
  EXPECT_THAT(*driver_.stream(2).end, HasReason("NOT_REGISTERED"));
  EXPECT_THAT(*driver_.stream(3).end, HasReason("STALE_GENERATION"));
  EXPECT_THAT(*driver_.stream(4).end, HasReason("STALE_GENERATION"));

  EXPECT_THAT(driver_.Form(5, zero), HasReason("STALE_GENERATION"));
  EXPECT_THAT(driver_.Wait(6, zero, 1), HasReason("STALE_GENERATION"));
  zero.generation = 2;
  EXPECT_THAT(driver_.Form(7, zero), IsOk());
}

TEST_F(CoordinatorCoreTest, FindLayoutChecksTheGenerationIfItIsGiven) {
  EXPECT_THAT(driver_.core().FindLayout("job"), HasReason("JOB_NOT_FOUND"));
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  EXPECT_THAT(driver_.core().FindLayout("job", 1), IsOk());
  EXPECT_THAT(driver_.core().FindLayout("job", 2),
              HasReason("STALE_GENERATION"));
}

TEST_F(CoordinatorCoreTest, ListsJobsByNameWithTheirLiveMembers) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4, 2, "b")), IsOk());
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4, 2, "zoo")), IsOk());
  driver_.Join(0);
  ASSERT_THAT(driver_.Leave(driver_.Join(1)), IsOk());
  v1::ListLayoutsRequest request;
  request.set_page_size(2);
  const auto first = driver_.core().ListLayouts(request).value();
  ASSERT_THAT(first.layouts(), SizeIs(2));
  EXPECT_EQ(first.layouts(0).name(), "b");
  EXPECT_EQ(first.layouts(0).world_size(), 8);
  EXPECT_EQ(first.layouts(1).name(), "job");
  EXPECT_EQ(first.layouts(1).member_count(), 1);
  request.set_page_token(first.next_page_token());
  const auto second = driver_.core().ListLayouts(request).value();
  ASSERT_THAT(second.layouts(), SizeIs(1));
  EXPECT_EQ(second.layouts(0).name(), "zoo");
  EXPECT_EQ(second.next_page_token(), "");
}

TEST_F(CoordinatorCoreTest, ARestartKeepsLayoutGenerationAndTimeInANewTerm) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4)), IsOk());
  const std::string before =
      driver_.core().FindLayout("job")->record->SerializeAsString();
  EXPECT_EQ(driver_.core().term(), 1);
  driver_.Pass(absl::Hours(1));
  driver_.Restart();
  EXPECT_EQ(driver_.core().term(), 2);
  EXPECT_EQ(driver_.core().FindLayout("job")->record->SerializeAsString(),
            before);
  EXPECT_EQ(driver_.Apply(CoreDriver::LanguageOnly(2))->generation(), 3);
}

TEST_F(CoordinatorCoreTest, RefusesToStartOnAStoreItCannotRead) {
  for (const auto& [key, value] :
       StateStore::Entries{{"term", "x"},
                           {"revision", "x"},
                           {"layout/job", "\xff"},
                           {"member/job/0/2", "\xff"},
                           {"member/job/0/2", ""}}) {
    FillableStore store;
    ASSERT_THAT(store.Commit({{key, value}}), IsOk());
    EXPECT_THAT(CoordinatorCore::Start(store, {}, driver_.now()),
                HasReason("STORE_UNREADABLE"))
        << key;
  }
}

TEST_F(CoordinatorCoreTest, DoesNotStartATermThatItCannotStore) {
  FillableStore store;
  store.full = true;
  EXPECT_THAT(CoordinatorCore::Start(store, {}, driver_.now()),
              HasReason("STORE_FAILED"));
}

TEST_F(CoordinatorCoreTest, NumbersOfAStoreThatForgetsAreNotThoseOfAnEarlier) {
  CoordinatorCore::Options options;
  for (const int64_t base : {1000, 2000}) {
    FillableStore store;
    options.number_base = base;
    auto core = CoordinatorCore::Start(store, options, driver_.now());
    ASSERT_THAT(core, IsOk());
    EXPECT_EQ((*core)->term(), base + 1);
    v1::ApplyLayoutRequest request;
    *request.mutable_layout() = CoreDriver::LanguageOnly(2);
    Effects effects;
    ASSERT_THAT((*core)->ApplyLayout(request, driver_.now(), effects), IsOk());
    EXPECT_EQ((*core)->FindLayout("job")->record->revision(), base + 1);
    // One that remembers goes on, whatever the base.
    options.number_base = 1;
    core = CoordinatorCore::Start(store, options, driver_.now());
    ASSERT_THAT(core, IsOk());
    EXPECT_EQ((*core)->term(), base + 2);
  }
}

}  // namespace
}  // namespace shardwright
