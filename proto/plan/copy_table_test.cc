// CopyTable is a checked value: each invariant's smallest violation is refused
// by name, and whatever way a table is cut, its canonical form is one.

#include "proto/plan/copy_table.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kFill = RowCopy::kFill;
constexpr int32_t kKeep = RowCopy::kKeep;

TEST(CopyTableTest, AnEmptyTableHasNoRows) {
  const absl::StatusOr<CopyTable> table = CopyTable::Create({}, {}, 0);
  ASSERT_THAT(table, IsOk());
  EXPECT_EQ(*table, CopyTable());
  EXPECT_FALSE(table->IsView());
}

TEST(CopyTableTest, JoinsWhatContinuesAndOrdersTheRest) {
  const absl::StatusOr<CopyTable> table = CopyTable::Create(
      {{0, 6, 2, 1, 2}, {0, 1, 1, 1, 1}, {0, 0, 0, 1, 1}}, {8}, 4);
  ASSERT_THAT(table, IsOk());
  EXPECT_THAT(table->entries(),
              ElementsAre(RowCopy{0, 0, 0, 1, 2}, RowCopy{0, 6, 2, 1, 2}));
}

TEST(CopyTableTest, JoinsAlongTheStrideOnly) {
  // Two samples interleave: columns 0 and 1, three rows each.
  const absl::StatusOr<CopyTable> table = CopyTable::Create(
      {{0, 0, 0, 2, 1}, {0, 1, 2, 2, 2}, {1, 0, 1, 2, 3}}, {3, 3}, 6);
  ASSERT_THAT(table, IsOk());
  EXPECT_THAT(table->entries(),
              ElementsAre(RowCopy{0, 0, 0, 2, 3}, RowCopy{1, 0, 1, 2, 3}));
}

TEST(CopyTableTest, FillsJoinWhateverTheirNeighbour) {
  const absl::StatusOr<CopyTable> table =
      CopyTable::Create({{kFill, 0, 0, 1, 2}, {kFill, 0, 2, 1, 2}}, {}, 4);
  ASSERT_THAT(table, IsOk());
  EXPECT_THAT(table->entries(), ElementsAre(RowCopy{kFill, 0, 0, 1, 4}));
  EXPECT_FALSE(table->IsView());
}

TEST(CopyTableTest, KeptRowsJoinAndCountAsWritten) {
  const absl::StatusOr<CopyTable> table = CopyTable::Create(
      {{kKeep, 0, 0, 1, 2}, {0, 0, 4, 1, 1}, {kKeep, 0, 2, 1, 2}}, {1}, 5);
  ASSERT_THAT(table, IsOk());
  EXPECT_THAT(table->entries(),
              ElementsAre(RowCopy{kKeep, 0, 0, 1, 4}, RowCopy{0, 0, 4, 1, 1}));
  EXPECT_FALSE(CopyTable::Create({{kKeep, 0, 0, 1, 2}}, {}, 2)->IsView());
}

TEST(CopyTableTest, OneRunOfOneSourceIsAView) {
  EXPECT_TRUE(CopyTable::Create({{0, 3, 0, 1, 4}}, {8}, 4)->IsView());
  EXPECT_FALSE(
      CopyTable::Create({{0, 3, 0, 1, 2}, {0, 0, 2, 1, 2}}, {8}, 4)->IsView());
}

// Entries in order are checked on a way of their own: it must take and refuse
// what the general one does.
TEST(CopyTableTest, OrderDoesNotDecideWhatIsRefused) {
  std::mt19937_64 random(2);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    const int64_t stride = 1 + random() % 3;
    const int64_t length = 2 + random() % 10;
    std::vector<RowCopy> entries;
    for (int64_t column = 0; column < stride; ++column) {
      for (int64_t row = 0; row < length;) {
        const int64_t count = 1 + random() % (length - row);
        entries.push_back({static_cast<int32_t>(column), row + column,
                           row * stride + column, stride, count});
        row += count;
      }
    }
    RowCopy& one = entries[random() % entries.size()];
    const int64_t changes[] = {-1, 1, stride, -stride, int64_t{1} << 62};
    const int64_t change = changes[random() % 5];
    switch (random() % 6) {
      case 0:
        one.source_row += change;
        break;
      case 1:
        one.destination_row += change;
        break;
      case 2:
        one.destination_stride += change;
        break;
      case 3:
        one.row_count += change;
        break;
      case 4:
        one.source += change % 4;
        break;
      default:
        break;
    }
    std::vector<RowCopy> shuffled = entries;
    std::shuffle(shuffled.begin(), shuffled.end(), random);
    // What is left of the destination by a last partial row, too.
    const int64_t rows = length * stride - (random() % 8 == 0 ? 1 : 0);
    const std::vector<int64_t> source_rows(stride, length + stride);
    const absl::StatusOr<CopyTable> a =
        CopyTable::Create(entries, source_rows, rows);
    const absl::StatusOr<CopyTable> b =
        CopyTable::Create(shuffled, source_rows, rows);
    ASSERT_EQ(a.ok(), b.ok()) << a.status() << b.status();
    if (a.ok()) {
      EXPECT_EQ(*a, *b);
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 500);
  EXPECT_LT(refused, 2500);
}

struct RefusalCase {
  std::string name;
  std::vector<RowCopy> entries;
  std::vector<int64_t> source_rows;
  int64_t destination_rows;
  std::string complaint;
};

class CopyTableRefusalTest : public ::testing::TestWithParam<RefusalCase> {};

TEST_P(CopyTableRefusalTest, NamesTheOffender) {
  const RefusalCase& c = GetParam();
  const absl::StatusOr<CopyTable> table =
      CopyTable::Create(c.entries, c.source_rows, c.destination_rows);
  EXPECT_THAT(table, HasReason("INVALID_TABLE"));
  EXPECT_THAT(table, StatusIs(absl::StatusCode::kInvalidArgument,
                              HasSubstr(c.complaint)));
}

constexpr int64_t kHuge = INT64_MAX;

INSTANTIATE_TEST_SUITE_P(
    OneBrokenInvariantEach, CopyTableRefusalTest,
    ::testing::ValuesIn(std::vector<RefusalCase>{
        {"RowMissing", {{0, 0, 0, 1, 3}}, {8}, 4, "row 3 is not written"},
        {"FirstRowMissing", {{0, 0, 1, 1, 3}}, {8}, 4, "row 0 is not written"},
        {"NothingWritten", {}, {8}, 4, "row 0 is not written"},
        {"ColumnMissing", {{0, 0, 0, 2, 2}}, {8}, 4, "row 1 is not written"},
        {"RowTwice",
         {{0, 0, 0, 1, 3}, {0, 3, 2, 1, 2}},
         {8},
         4,
         "row 2 is written twice"},
        {"ReadTwice",
         {{0, 0, 0, 1, 2}, {0, 1, 2, 1, 2}},
         {8},
         4,
         "row 1 of source 0 is read twice"},
        {"PastTheDestination", {{0, 0, 0, 1, 5}}, {8}, 4, "4 rows"},
        {"StridePastTheDestination", {{0, 0, 0, 3, 3}}, {8}, 6, "6 rows"},
        {"PastTheSource", {{0, 5, 0, 1, 4}}, {8}, 4, "8 rows of its source"},
        {"NegativeSourceRow", {{0, -1, 0, 1, 4}}, {8}, 4, "of its source"},
        {"NegativeDestination", {{0, 0, -1, 1, 4}}, {8}, 4, "not inside"},
        {"NoSuchSource", {{1, 0, 0, 1, 4}}, {8}, 4, "there are 1 sources"},
        {"NegativeSource", {{-3, 0, 0, 1, 4}}, {8}, 4, "there are 1 sources"},
        {"EmptyEntry", {{0, 0, 0, 1, 0}}, {8}, 4, "not inside"},
        {"NegativeCount", {{0, 0, 0, 1, -4}}, {8}, 4, "not inside"},
        {"ZeroStride", {{0, 0, 0, 0, 4}}, {8}, 4, "positive stride"},
        {"MixedStrides",
         {{0, 0, 0, 1, 2}, {0, 2, 2, 2, 1}, {0, 3, 3, 2, 1}},
         {8},
         4,
         "one positive stride"},
        {"FillWithARow", {{kFill, 1, 0, 1, 4}}, {}, 4, "source_row 0"},
        {"KeepWithARow", {{kKeep, 1, 0, 1, 4}}, {}, 4, "source_row 0"},
        {"KeepTwice",
         {{kKeep, 0, 0, 1, 4}, {kKeep, 0, 3, 1, 1}},
         {},
         4,
         "written twice"},
        {"HugeCount", {{0, 0, 0, 1, kHuge}}, {8}, 4, "not inside"},
        {"HugeStride", {{0, 0, 0, kHuge, 2}}, {8}, 4, "positive stride"},
        {"HugeSourceRow", {{0, kHuge, 0, 1, 4}}, {8}, 4, "of its source"},
        {"HugeDestination", {{0, 0, kHuge, 1, 4}}, {8}, 4, "not inside"},
        {"HugeDestinationRows", {}, {}, kHuge, "destination_rows="},
        {"NegativeDestinationRows", {}, {}, -1, "destination_rows=-1"},
        {"NegativeSourceRows", {}, {-1}, 0, "source_rows[0]=-1"},
        {"ManySources", {}, std::vector<int64_t>(17), 0, "17 sources"},
    }),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace shardwright
