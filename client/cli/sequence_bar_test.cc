// The picture's arithmetic: every position has a cell, and runs are counted
// once however the sequence is scaled.

#include "client/cli/sequence_bar.h"

#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;

TEST(SequenceScaleTest, ShortSequencesGetWholeCellsForEachPosition) {
  EXPECT_EQ(SequenceScale(24, 72, 1).cell_count(), 72);
  EXPECT_EQ(SequenceScale(25, 72, 1).cell_count(), 50);
}

TEST(SequenceScaleTest, SlicesOfLongSequencesGetWholeCells) {
  EXPECT_EQ(SequenceScale(960, 72, 10).cell_count(), 70);
  EXPECT_EQ(SequenceScale(960, 72, 96).cell_count(), 72);  // Not room for all.
  EXPECT_EQ(SequenceScale(int64_t{1} << 32, 72, 8).cell_count(), 72);
}

TEST(SequenceScaleTest, EveryPositionIsInTheCellThatIsSaidToHoldIt) {
  for (int64_t seq_length : {1, 2, 7, 44, 71, 72, 73, 100, 1001, 131072}) {
    for (int width : {16, 72, 144}) {
      const SequenceScale scale(seq_length, width, 1);
      ASSERT_LE(scale.cell_count(), width);
      for (int64_t p = 0; p < seq_length; ++p) {
        const int cell = scale.CellOf(p);
        ASSERT_LE(scale.Begin(cell), p) << seq_length << " " << width;
        ASSERT_GT(scale.End(cell), p) << seq_length << " " << width;
        ASSERT_TRUE(cell == 0 || scale.End(cell - 1) <= p);
      }
    }
  }
}

TEST(CountByCellTest, CountsEachPositionInEachOfItsCells) {
  const SequenceScale wide(4, 8, 1);  // Two cells a position.
  EXPECT_THAT(CountByCell(wide, {{1, 2}}), ElementsAre(0, 0, 1, 1, 1, 1, 0, 0));
  const SequenceScale narrow(8, 4, 1);  // Two positions a cell.
  EXPECT_THAT(CountByCell(narrow, {{0, 1}, {3, 3}, {7, 1}, {7, 0}}),
              ElementsAre(1, 1, 2, 1));
}

TEST(CountByCellTest, CountsAllOfALongSequence) {
  const SequenceScale scale(1001, 72, 1);
  const std::vector<int64_t> counts =
      CountByCell(scale, {{0, 400}, {400, 601}});
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), 1001);
}

TEST(FormatRulerTest, PutsNumbersWherePositionsBegin) {
  EXPECT_EQ(FormatRuler(SequenceScale(24, 24, 1), {0, 8, 24}),
            "0       8             24");
}

TEST(FormatRulerTest, LeavesOutNumbersThatWouldTouch) {
  EXPECT_EQ(FormatRuler(SequenceScale(24, 24, 1), {0, 1, 2, 10, 12, 21, 22}),
            "0 2       10          24");
}

}  // namespace
}  // namespace shardwright
