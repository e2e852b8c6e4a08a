// The clique that has members of several modules: language ranks 0 and 1, and
// an encoder on ranks 2 and 3 of which each is a pipeline stage.

#include <string>
#include <vector>

#include "coordinator/core/core_driver.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Layout WithEncoder() {
  v1::Layout layout = CoreDriver::LanguageOnly(2);
  layout.set_world_size(4);
  v1::Module& images = *layout.add_modules();
  images.set_name("images");
  images.set_role(v1::ENCODER);
  images.set_first_rank(2);
  images.set_rank_count(2);
  images.mutable_parallelism()->set_pp(2);
  v1::Edge& edge = *layout.add_edges();
  edge.set_from("images");
  edge.set_to("language");
  return layout;
}

class BridgeCliqueTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(driver_.Apply(WithEncoder()), IsOk());
    for (Rank rank : {0, 1, 3}) members_.push_back(driver_.Join(rank));
  }

  // All call, each on a stream from `first` on, publish and report.
  v1::Attempt Activate(StreamId first = 1) {
    for (int i = 0; i < 3; ++i) {
      EXPECT_THAT(driver_.Form(first + i, members_[i], {{"bridge"}}), IsOk());
    }
    const v1::Attempt attempt = driver_.LastGo(first);
    for (int i = 0; i < 3; ++i) {
      EXPECT_THAT(driver_.Publish(members_[i], attempt, i, "slot"), IsOk());
    }
    for (const TestMember& member : members_) {
      EXPECT_THAT(driver_.Report(member, attempt, true), IsOk());
    }
    return attempt;
  }

  CoreDriver driver_;
  std::vector<TestMember> members_;
};

TEST_F(BridgeCliqueTest, BringsTheStagesAtBothEndsTogether) {
  const v1::Attempt attempt = Activate();
  EXPECT_EQ(attempt.clique(), "language/bridge/0");
  EXPECT_THAT(driver_.stream(3).events.front().go().ranks(),
              ElementsAre(0, 1, 3));
  EXPECT_EQ(driver_.LastActive(1).number(), attempt.number());
  EXPECT_EQ(driver_.LastActive(3).number(), attempt.number());
}

TEST_F(BridgeCliqueTest, AnotherStageTakesNoPart) {
  ASSERT_THAT(driver_.Form(1, driver_.Join(2), {{"bridge"}}), IsOk());
  EXPECT_THAT(*driver_.stream(1).end, IsOk());
}

TEST_F(BridgeCliqueTest, AnEncoderThatIsLostEndsItForAll) {
  const v1::Attempt attempt = Activate();
  ASSERT_THAT(driver_.Leave(members_[2]), IsOk());
  EXPECT_THAT(driver_.Report(members_[0], attempt, true),
              HasReason("STALE_ATTEMPT"));
  members_[2] = driver_.Join(3);
  EXPECT_EQ(Activate(/*first=*/4).number(), attempt.number() + 1);
}

TEST_F(BridgeCliqueTest, IsAScopeOfBarriers) {
  constexpr absl::Duration kTimeout = absl::Minutes(1);
  for (int i = 0; i < 3; ++i) {
    ASSERT_THAT(
        driver_.Wait(i + 1, members_[i], 1, kTimeout, "language/bridge/0"),
        IsOk());
  }
  EXPECT_THAT(*driver_.stream(1).end, IsOk());
  EXPECT_THAT(
      driver_.Wait(4, members_[0], 1, kTimeout, "images/bridge/0", 0, "other"),
      HasReason("SCOPE_NOT_FOUND"));
}

TEST_F(BridgeCliqueTest, IsExplainedUnderTheLanguageModulesName) {
  v1::ExplainCliqueRequest request;
  request.set_job("job");
  Effects effects;
  request.set_clique("language/bridge/0");
  const absl::StatusOr<v1::CliqueExplanation> explained =
      driver_.core().ExplainClique(request, driver_.now(), effects);
  ASSERT_THAT(explained, IsOk());
  EXPECT_EQ(explained->clique().member_count(), 3);
  request.set_clique("images/bridge/0");
  const absl::Status refused =
      driver_.core().ExplainClique(request, driver_.now(), effects).status();
  EXPECT_THAT(refused, HasReason("CLIQUE_NOT_FOUND"));
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("the kinds of images are tp, cp"));
}

}  // namespace
}  // namespace shardwright
