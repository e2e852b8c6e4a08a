#include "worker/rpc/work_queue.h"

#include <future>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace shardwright {
namespace {

TEST(WorkQueueTest, DoesWhatWasAddedBeforeItEnds) {
  int done = 0;
  {
    WorkQueue queue(1, absl::Minutes(1));
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(queue.Add([&] { ++done; }));
  }
  EXPECT_EQ(done, 100);
}

// One thread spins; it must not be taken for enough for two pieces.
TEST(WorkQueueTest, BeginsTwoPiecesTogetherWhileAThreadSpins) {
  WorkQueue queue(2, absl::Minutes(1));
  for (int i = 0; i < 100; ++i) {
    std::promise<void> first, second, both;
    ASSERT_TRUE(queue.Add([&] {
      first.set_value();
      second.get_future().wait();
      both.set_value();
    }));
    ASSERT_TRUE(queue.Add([&] {
      first.get_future().wait();
      second.set_value();
    }));
    both.get_future().wait();
  }
}

}  // namespace
}  // namespace shardwright
