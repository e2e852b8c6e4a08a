#include "tests/gpu/benchmark_cases.h"

#include "gtest/gtest.h"

namespace shardwright {
namespace {

TEST(BenchmarkCasesTest, NoShareIsMeasuredOfAView) {
  for (const BenchmarkCase& test : ShareCases()) {
    if (test.seq_length > 32768) continue;  // The same, and slow to plan.
    const ShardPlan plan = PlanOf(test);
    EXPECT_FALSE(plan.embeddings->IsView()) << test.name;
    EXPECT_EQ(plan.embeddings->destination_rows(),
              test.seq_length * test.micro_batch_size / (test.cp * test.tp))
        << test.name;
    EXPECT_FALSE(plan.labels.IsView()) << test.name;
  }
}

TEST(BenchmarkCasesTest, ComposeTakesHalfOfItsRowsFromImages) {
  for (const BenchmarkCase& test : ShareCases()) {
    if (test.kind != BatchKind::kCompose || test.seq_length > 32768) continue;
    const CopyTable table = *PlanOf(test).embeddings;
    int64_t images = 0;
    for (const RowCopy& entry : table.entries()) {
      if (entry.source == 1) images += entry.row_count;
    }
    EXPECT_EQ(2 * images, table.destination_rows()) << test.name;
  }
}

TEST(BenchmarkCasesTest, LabelsAreMeasuredWhereEmbeddingsAreAView) {
  for (const BenchmarkCase& test : LabelCases()) {
    const ShardPlan plan = PlanOf(test);
    EXPECT_TRUE(plan.embeddings->IsView()) << test.name;
    EXPECT_EQ(plan.labels.IsView(), test.cp == 1) << test.name;
  }
}

TEST(BenchmarkCasesTest, SmallTableHas100RowsInTenRuns) {
  EXPECT_EQ(SmallTable().destination_rows(), 100);
  EXPECT_EQ(SmallTable().entries().size(), 10u);
}

}  // namespace
}  // namespace shardwright
