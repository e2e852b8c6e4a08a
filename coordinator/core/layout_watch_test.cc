// Watching layouts: everything that is newer is told, in order, and whoever was
// away misses no job's newest.

#include <string>
#include <vector>

#include "coordinator/core/core_driver.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class LayoutWatchTest : public ::testing::Test {
 protected:
  void Apply(const std::string& job, int64_t ranks) {
    ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(ranks, 1, job)), IsOk());
  }
  // "job:world size" of what a stream has been told.
  std::vector<std::string> Told(StreamId stream) {
    std::vector<std::string> told;
    for (const v1::GetLayoutResponse& layout : driver_.stream(stream).layouts) {
      told.push_back(layout.layout().name() + ":" +
                     std::to_string(layout.layout().world_size()));
    }
    return told;
  }
  int64_t LastRevision(StreamId stream) {
    return driver_.stream(stream).layouts.back().revision();
  }

  CoreDriver driver_;
};

TEST_F(LayoutWatchTest, BeginsWithAllLayoutsAndGoesOnWithEachThatIsApplied) {
  Apply("b", 2);
  Apply("a", 3);
  ASSERT_THAT(driver_.Watch(1), IsOk());
  EXPECT_THAT(Told(1), ElementsAre("b:2", "a:3"));
  Apply("b", 4);
  Apply("c", 5);
  Apply("c", 5);  // Changes nothing.
  EXPECT_THAT(Told(1), ElementsAre("b:2", "a:3", "b:4", "c:5"));
  int64_t last = 0;
  for (const v1::GetLayoutResponse& layout : driver_.stream(1).layouts) {
    EXPECT_GT(layout.revision(), last);
    last = layout.revision();
  }
}

TEST_F(LayoutWatchTest, ResumesWithTheNewestOfEachJobThatItMissed) {
  Apply("a", 2);
  Apply("b", 2);
  ASSERT_THAT(driver_.Watch(1), IsOk());
  const int64_t seen = LastRevision(1);
  driver_.CloseStream(1);
  Apply("a", 3);
  Apply("a", 4);
  EXPECT_THAT(Told(1), SizeIs(2));
  ASSERT_THAT(driver_.Watch(2, seen), IsOk());
  EXPECT_THAT(Told(2), ElementsAre("a:4"));
  ASSERT_THAT(driver_.Watch(3, LastRevision(2)), IsOk());
  EXPECT_THAT(Told(3), IsEmpty());
}

TEST_F(LayoutWatchTest, OfOneJobTellsNothingOfOthers) {
  EXPECT_THAT(driver_.Watch(1, 0, "a"), HasReason("JOB_NOT_FOUND"));
  Apply("a", 2);
  Apply("b", 2);
  ASSERT_THAT(driver_.Watch(2, 0, "a"), IsOk());
  Apply("b", 3);
  Apply("a", 3);
  EXPECT_THAT(Told(2), ElementsAre("a:2", "a:3"));
}

TEST_F(LayoutWatchTest, RevisionsGoOnAfterARestart) {
  Apply("a", 2);
  Apply("b", 2);
  ASSERT_THAT(driver_.Watch(1), IsOk());
  const int64_t seen = LastRevision(1);
  driver_.Restart();
  ASSERT_THAT(driver_.Watch(2, seen), IsOk());
  EXPECT_THAT(Told(2), IsEmpty());
  Apply("a", 3);
  EXPECT_THAT(Told(2), ElementsAre("a:3"));
  EXPECT_GT(LastRevision(2), seen);
}

TEST_F(LayoutWatchTest, ALayoutWhoseWriteFailedIsNotToldAndTakesNoRevision) {
  Apply("a", 2);
  ASSERT_THAT(driver_.Watch(1), IsOk());
  driver_.store().full = true;
  EXPECT_THAT(driver_.Apply(CoreDriver::LanguageOnly(3, 1, "a")),
              HasReason("STORE_FAILED"));
  driver_.store().full = false;
  Apply("a", 4);
  EXPECT_THAT(Told(1), ElementsAre("a:2", "a:4"));
}

TEST_F(LayoutWatchTest, LayoutsOfAnOlderStoreGetRevisionsThatLast) {
  // As the version before wrote it.
  v1::GetLayoutResponse record;
  *record.mutable_layout() = CoreDriver::LanguageOnly(2, 1, "old");
  record.set_generation(7);
  ASSERT_THAT(
      driver_.store().Commit({{"layout/old", record.SerializeAsString()}}),
      IsOk());
  driver_.Restart();
  ASSERT_THAT(driver_.Watch(1), IsOk());
  ASSERT_THAT(Told(1), ElementsAre("old:2"));
  EXPECT_EQ(driver_.stream(1).layouts[0].generation(), 7);
  const int64_t seen = LastRevision(1);
  EXPECT_GT(seen, 0);
  driver_.Restart();
  ASSERT_THAT(driver_.Watch(1, seen), IsOk());
  EXPECT_THAT(Told(1), IsEmpty());
}

TEST_F(LayoutWatchTest, ManyLayoutsComeInPortionsAndNoneIsMissed) {
  constexpr int kJobs = 150;
  const auto name = [](int i) { return "job-" + std::to_string(i); };
  for (int i = 0; i < kJobs; ++i) Apply(name(i), 2);
  ASSERT_THAT(driver_.Watch(1), IsOk());
  EXPECT_THAT(Told(1), SizeIs(kPortionMessagesMax));
  // Of what it is yet to be told, it gets the newest; of the rest, news.
  Apply(name(kJobs - 1), 3);
  Apply(name(0), 3);
  EXPECT_THAT(Told(1), SizeIs(kPortionMessagesMax));
  for (int i = 0; i < 5; ++i) driver_.WatchOn(1);
  std::vector<std::string> told = Told(1);
  ASSERT_THAT(told, SizeIs(kJobs + 1));
  for (int i = 0; i < kJobs - 1; ++i) EXPECT_EQ(told[i], name(i) + ":2");
  EXPECT_EQ(told[kJobs - 1], name(kJobs - 1) + ":3");
  EXPECT_EQ(told[kJobs], name(0) + ":3");
  Apply("b", 2);
  EXPECT_EQ(Told(1).back(), "b:2");
  driver_.WatchOn(1);
  EXPECT_THAT(Told(1), SizeIs(kJobs + 2));
  // Who watches one job waits for no portion of others.
  ASSERT_THAT(driver_.Watch(2, 0, "b"), IsOk());
  EXPECT_THAT(Told(2), ElementsAre("b:2"));
}

TEST_F(LayoutWatchTest, LargeLayoutsComeOneByOne) {
  for (const char* job : {"a", "b"}) {
    v1::Layout layout = CoreDriver::LanguageOnly(400000, 1, job);
    v1::Module& module = *layout.mutable_modules(0);
    module.clear_first_rank();
    module.clear_rank_count();
    for (Rank rank = 0; rank < 400000; ++rank) module.add_ranks(rank);
    ASSERT_THAT(driver_.Apply(layout), IsOk());
  }
  ASSERT_THAT(driver_.Watch(1), IsOk());
  EXPECT_THAT(Told(1), ElementsAre("a:400000"));
  driver_.WatchOn(1);
  EXPECT_THAT(Told(1), ElementsAre("a:400000", "b:400000"));
}

TEST_F(LayoutWatchTest, ARevisionOfAnotherStoreIsRefused) {
  Apply("a", 2);
  const absl::Status ahead = driver_.Watch(1, 2);
  EXPECT_EQ(ahead.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(ahead, HasReason("REVISION_AHEAD"));
  EXPECT_EQ(DetailOf(ahead).metadata().at("current_revision"), "1");
  Apply("a", 3);
  EXPECT_THAT(Told(1), IsEmpty());
}

}  // namespace
}  // namespace shardwright
