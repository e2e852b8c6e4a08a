#include "client/cc/backoff.h"

#include "gtest/gtest.h"

namespace shardwright {
namespace {

TEST(BackoffTest, StaysBelowACeilingThatDoublesUpToTheLimit) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Backoff backoff(seed);
    for (absl::Duration ceiling = Backoff::kInitial; ceiling < Backoff::kMax;
         ceiling *= 2) {
      const absl::Duration delay = backoff.Next();
      EXPECT_GE(delay, absl::ZeroDuration());
      EXPECT_LT(delay, ceiling) << "seed " << seed;
    }
    for (int i = 0; i < 20; ++i) EXPECT_LT(backoff.Next(), Backoff::kMax);
  }
}

TEST(BackoffTest, JitterIsFull) {
  Backoff backoff(/*seed=*/1);
  int low_count = 0;
  constexpr int kDrawCount = 1000;
  for (int i = 0; i < kDrawCount; ++i) {
    if (backoff.Next() < Backoff::kMax / 2) ++low_count;
  }
  EXPECT_NEAR(low_count, 0.5 * kDrawCount, 0.1 * kDrawCount);
}

TEST(BackoffTest, ResetBeginsAgain) {
  Backoff backoff(/*seed=*/1);
  for (int i = 0; i < 20; ++i) backoff.Next();
  backoff.Reset();
  EXPECT_LT(backoff.Next(), Backoff::kInitial);
}

}  // namespace
}  // namespace shardwright
