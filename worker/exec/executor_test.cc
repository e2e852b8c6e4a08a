// The executor against ten obvious lines, over an enumerated grid of row sizes,
// strides, fill values and numbers of sources. Outputs are poisoned first, so
// that a byte which nobody wrote shows.

#include "worker/exec/executor.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/plan/copy_table.h"
#include "proto/status/status_matchers.h"
#include "worker/exec/random_table.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kPoison = '\xa5';

// What RunForward() means, row by row and byte by byte.
std::string ForwardReference(const CopyTable& table, int64_t row_bytes,
                             const std::vector<std::string>& sources,
                             const std::string& fill) {
  std::string out(table.destination_rows() * row_bytes, kPoison);
  for (const RowCopy& entry : table.entries()) {
    if (entry.source == RowCopy::kKeep) continue;
    for (int64_t i = 0; i < entry.row_count; ++i) {
      for (int64_t byte = 0; byte < row_bytes; ++byte) {
        const int64_t to = entry.destination_row + i * entry.destination_stride;
        out[to * row_bytes + byte] =
            entry.source == RowCopy::kFill
                ? (fill.empty() ? '\0' : fill[byte % fill.size()])
                : sources[entry.source]
                         [(entry.source_row + i) * row_bytes + byte];
      }
    }
  }
  return out;
}

// What RunAdjoint() means.
std::vector<std::string> AdjointReference(const CopyTable& table,
                                          int64_t row_bytes,
                                          const std::string& destination) {
  std::vector<std::string> out;
  for (int64_t rows : table.source_rows())
    out.emplace_back(rows * row_bytes, 0);
  for (const RowCopy& entry : table.entries()) {
    if (entry.source < 0) continue;
    for (int64_t i = 0; i < entry.row_count; ++i) {
      const int64_t from = entry.destination_row + i * entry.destination_stride;
      std::copy_n(
          destination.begin() + from * row_bytes, row_bytes,
          out[entry.source].begin() + (entry.source_row + i) * row_bytes);
    }
  }
  return out;
}

std::vector<ConstBytes> Views(const std::vector<std::string>& buffers) {
  return std::vector<ConstBytes>(buffers.begin(), buffers.end());
}

std::vector<Bytes> MutableViews(std::vector<std::string>& buffers) {
  std::vector<Bytes> views;
  for (std::string& buffer : buffers) views.push_back(absl::MakeSpan(buffer));
  return views;
}

// row_bytes, destination_stride, number of sources, whether rows are filled.
using GridCase = std::tuple<int64_t, int64_t, int, bool>;

class ExecutorGridTest : public ::testing::TestWithParam<GridCase> {
 protected:
  std::mt19937 random_{20240901};
};

TEST_P(ExecutorGridTest, ForwardWritesWhatTheReferenceWrites) {
  const auto& [row_bytes, stride, source_count, fills] = GetParam();
  for (int round = 0; round < 8; ++round) {
    const CopyTable table =
        RandomTable(stride, source_count, round * 7, fills, random_);
    std::vector<std::string> sources;
    for (int64_t rows : table.source_rows()) {
      sources.push_back(RandomBytes(rows * row_bytes, random_));
    }
    std::string fill;
    if (round % 2 == 1) {
      fill = RandomBytes(row_bytes % 4 == 0 ? 4 : row_bytes, random_);
    }
    std::string out(table.destination_rows() * row_bytes, kPoison);
    ASSERT_THAT(
        RunForward(table, row_bytes, Views(sources), absl::MakeSpan(out), fill),
        IsOk());
    EXPECT_EQ(out, ForwardReference(table, row_bytes, sources, fill));
  }
}

TEST_P(ExecutorGridTest, AdjointWritesEveryByteOfEverySource) {
  const auto& [row_bytes, stride, source_count, fills] = GetParam();
  for (int round = 0; round < 8; ++round) {
    const CopyTable table =
        RandomTable(stride, source_count, round * 7, fills, random_);
    const std::string destination =
        RandomBytes(table.destination_rows() * row_bytes, random_);
    std::vector<std::string> out;
    for (int64_t rows : table.source_rows()) {
      out.emplace_back(rows * row_bytes, kPoison);
    }
    ASSERT_THAT(RunAdjoint(table, row_bytes, destination, MutableViews(out)),
                IsOk());
    EXPECT_EQ(out, AdjointReference(table, row_bytes, destination));
  }
}

TEST_P(ExecutorGridTest, AdjointAfterForwardIsTheIdentityOnOwnedRows) {
  const auto& [row_bytes, stride, source_count, fills] = GetParam();
  const CopyTable table = RandomTable(stride, source_count, 40, fills, random_);
  std::vector<std::string> sources;
  for (int64_t rows : table.source_rows()) {
    sources.push_back(RandomBytes(rows * row_bytes, random_));
  }
  std::string shard(table.destination_rows() * row_bytes, kPoison);
  ASSERT_THAT(
      RunForward(table, row_bytes, Views(sources), absl::MakeSpan(shard)),
      IsOk());
  std::vector<std::string> back = sources;
  ASSERT_THAT(RunAdjoint(table, row_bytes, shard, MutableViews(back)), IsOk());
  for (const RowCopy& entry : table.entries()) {
    if (entry.source < 0) continue;
    EXPECT_EQ(back[entry.source].substr(entry.source_row * row_bytes,
                                        entry.row_count * row_bytes),
              sources[entry.source].substr(entry.source_row * row_bytes,
                                           entry.row_count * row_bytes));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Grid, ExecutorGridTest,
    ::testing::Combine(::testing::Values(1, 2, 3, 8, 588, 4096),
                       ::testing::Values(1, 2, 3), ::testing::Values(1, 2, 5),
                       ::testing::Bool()),
    [](const auto& info) {
      return absl::StrCat("RowBytes", std::get<0>(info.param), "Stride",
                          std::get<1>(info.param), "Sources",
                          std::get<2>(info.param),
                          std::get<3>(info.param) ? "Fill" : "NoFill");
    });

// Two rows of 4 bytes from source 0, one from source 1, one filled.
class ExecutorRefusalTest : public ::testing::Test {
 protected:
  ExecutorRefusalTest()
      : table_(*CopyTable::Create(
            {{0, 0, 0, 1, 2}, {1, 1, 2, 1, 1}, {RowCopy::kFill, 0, 3, 1, 1}},
            {2, 3}, 4)) {}

  absl::Status Run(std::vector<ConstBytes> sources, int64_t row_bytes = 4,
                   ConstBytes fill = {}) {
    return RunForward(table_, row_bytes, sources, absl::MakeSpan(out_), fill);
  }

  const CopyTable table_;
  const std::string first_ = std::string(8, 'a');
  const std::string second_ = std::string(12, 'b');
  std::string out_ = std::string(16, kPoison);
};

TEST_F(ExecutorRefusalTest, AcceptsWhatFits) {
  EXPECT_THAT(Run({first_, second_}), IsOk());
  EXPECT_EQ(out_, std::string("aaaaaaaabbbb\0\0\0\0", 16));
}

TEST_F(ExecutorRefusalTest, NamesTheBufferOfTheWrongSizeAndWritesNothing) {
  const std::string short_one(11, 'b');
  EXPECT_THAT(
      Run({first_, short_one}),
      AllOf(HasReason("INVALID_TENSOR"),
            StatusIs(absl::StatusCode::kInvalidArgument,
                     HasSubstr("source 1 has 11 bytes, but the table needs 3 "
                               "rows of 4 bytes"))));
  EXPECT_EQ(out_, std::string(16, kPoison));
  out_.resize(15);
  EXPECT_THAT(Run({first_, second_}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("the destination has 15 bytes")));
}

TEST_F(ExecutorRefusalTest, NamesBothNumbersOfSources) {
  EXPECT_THAT(Run({first_}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("there are 1 sources, but the table has 2")));
}

TEST_F(ExecutorRefusalTest, RefusesRowsOfNoBytesAndOfTooMany) {
  EXPECT_THAT(Run({first_, second_}, 0),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("row_bytes is 0")));
  EXPECT_THAT(Run({first_, second_}, int64_t{1} << 62),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("source 0 has 8 bytes")));
}

TEST_F(ExecutorRefusalTest, RefusesAFillValueThatDoesNotDivideARow) {
  const std::string fill = "abc";
  EXPECT_THAT(Run({first_, second_}, 4, fill),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("3 bytes, which do not divide row_bytes 4")));
}

TEST_F(ExecutorRefusalTest, RefusesAnOutputThatOverlapsAnInput) {
  EXPECT_THAT(Run({ConstBytes(out_).subspan(0, 8), second_}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("source 0 overlaps the destination")));
  std::string both(16, 'c');
  EXPECT_THAT(RunAdjoint(table_, 4, out_,
                         {absl::MakeSpan(both).subspan(0, 8),
                          absl::MakeSpan(both).subspan(4, 12)}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("sources 0 and 1 overlap")));
}

TEST(ExecutorTest, KeptRowsAreNeitherWrittenNorRead) {
  const CopyTable table = *CopyTable::Create(
      {{0, 1, 0, 1, 1}, {RowCopy::kKeep, 0, 1, 1, 2}, {0, 0, 3, 1, 1}}, {3}, 4);
  std::string source = "aabbcc", destination = "????????";
  const std::string gradient = "BBxxxxAA";
  EXPECT_THAT(RunForward(table, 2, {source}, absl::MakeSpan(destination)),
              IsOk());
  EXPECT_EQ(destination, "bb????aa");
  EXPECT_THAT(RunAdjoint(table, 2, gradient, {absl::MakeSpan(source)}), IsOk());
  EXPECT_EQ(source, std::string("AABB\0\0", 6));
}

TEST(ExecutorTest, AnEmptyTableMovesNothing) {
  EXPECT_THAT(RunForward(CopyTable(), 8, {}, {}), IsOk());
  EXPECT_THAT(RunAdjoint(CopyTable(), 8, {}, {}), IsOk());
}

// No row, so no byte: but a row of them would not fit any memory.
TEST(ExecutorTest, ARowSizeThatNoRowHasCostsNothing) {
  const CopyTable empty;
  const int64_t row_bytes = int64_t{1} << 62;
  EXPECT_THAT(RunForward(empty, row_bytes, {}, {}), IsOk());
  EXPECT_THAT(RunAdjoint(empty, row_bytes, {}, {}), IsOk());
}

}  // namespace
}  // namespace shardwright
