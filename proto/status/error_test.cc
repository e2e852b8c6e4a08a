// What must survive the wire: code, message and reason, whatever the size of
// what was to be told.

#include "proto/status/error.h"

#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/grpc_status.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

TEST(ErrorTest, SurvivesTheRoundTripThroughGrpc) {
  const absl::Status status =
      Error(absl::StatusCode::kFailedPrecondition, "STALE_GENERATION",
            "generation 3 is not 4", {{"current_generation", "4"}});
  const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
  EXPECT_THAT(back, StatusIs(absl::StatusCode::kFailedPrecondition,
                             "generation 3 is not 4"));
  EXPECT_THAT(back, HasReason("STALE_GENERATION"));
  EXPECT_EQ(DetailOf(back).metadata().at("current_generation"), "4");
}

TEST(ErrorTest, EveryFailureOnTheWireHasAReason) {
  EXPECT_THAT(FromGrpcStatus(ToGrpcStatus(absl::InternalError("x"))),
              HasReason("UNSPECIFIED"));
}

TEST(ErrorTest, AStatusWithoutDetailHasNoReason) {
  EXPECT_EQ(ReasonOf(absl::InternalError("x")), "");
  EXPECT_EQ(ReasonOf(absl::OkStatus()), "");
}

TEST(ErrorTest, CutsViolationsToTheBudgetAndSaysSo) {
  v1::ErrorDetail detail;
  detail.set_reason("INVALID_LAYOUT");
  for (int i = 0; i < 1000; ++i) {
    detail.add_violations()->set_description(std::string(50, 'x'));
  }
  const v1::ErrorDetail cut = DetailOf(
      Error(absl::StatusCode::kInvalidArgument, "many", std::move(detail)));
  EXPECT_LE(cut.ByteSizeLong(), kErrorDetailBytesMax);
  EXPECT_GT(cut.violations_size(), 10);
  EXPECT_TRUE(cut.violations_truncated());
}

TEST(ErrorTest, CutsOneHugeViolation) {
  v1::ErrorDetail detail;
  detail.set_reason("INVALID_LAYOUT");
  detail.add_violations()->set_field(std::string(100000, 'f'));
  const v1::ErrorDetail cut = DetailOf(
      Error(absl::StatusCode::kInvalidArgument, "one", std::move(detail)));
  EXPECT_LE(cut.ByteSizeLong(), kErrorDetailBytesMax);
  EXPECT_EQ(cut.reason(), "INVALID_LAYOUT");
}

// One byte that is not UTF-8, and the receiver could not parse the detail.
TEST(ErrorTest, WhatIsQuotedCannotSpoilTheReason) {
  v1::ErrorDetail detail;
  detail.set_reason("INVALID_LAYOUT");
  (*detail.mutable_metadata())["job"] = "\xff";
  v1::Violation& violation = *detail.add_violations();
  violation.set_field("f\xc3");
  violation.set_description("'\xe2\x82' \xed\xa0\x80 \xc0\xaf \xf5");
  violation.set_hint("\xe2\x82\xac stays");
  const absl::Status status =
      Error(absl::StatusCode::kInvalidArgument, "cut: \xc3", std::move(detail));
  EXPECT_EQ(status.message(), "cut: ?");
  const v1::ErrorDetail sent = DetailOf(status);
  EXPECT_EQ(sent.reason(), "INVALID_LAYOUT");
  EXPECT_EQ(sent.metadata().at("job"), "?");
  EXPECT_EQ(sent.violations(0).field(), "f?");
  EXPECT_EQ(sent.violations(0).description(), "'\?\?' \?\?\? \?\? \?");
  EXPECT_EQ(sent.violations(0).hint(), "\xe2\x82\xac stays");
}

TEST(ErrorTest, KeepsTheReasonHoweverLongWhatAClientBrings) {
  const std::string huge(1 << 20, 'h');
  const v1::ErrorDetail cut = DetailOf(
      Error(absl::StatusCode::kInvalidArgument, "BARRIER_MISMATCH", huge,
            {{"scope", huge}, {"got_scope", huge}, {"digest", "0123"}}));
  EXPECT_LE(cut.ByteSizeLong(), kErrorDetailBytesMax);
  EXPECT_EQ(cut.reason(), "BARRIER_MISMATCH");
  EXPECT_EQ(cut.metadata().at("digest"), "0123");
  EXPECT_THAT(cut.metadata().at("scope"), testing::StartsWith("hhhh"));

  std::map<std::string, std::string> many;
  for (int i = 0; i < 1000; ++i) many[std::to_string(i)] = huge;
  const v1::ErrorDetail bare = DetailOf(
      Error(absl::StatusCode::kInvalidArgument, "BARRIER_MISMATCH", "", many));
  EXPECT_LE(bare.ByteSizeLong(), kErrorDetailBytesMax);
  EXPECT_EQ(bare.reason(), "BARRIER_MISMATCH");
}

TEST(ErrorTest, ADetailFromAnUnkindServerEndsToo) {
  v1::ErrorDetail detail;
  detail.set_reason(std::string(1 << 20, 'r'));
  detail.mutable_missing()->set_report(std::string(1 << 20, 'r'));
  EXPECT_LE(
      DetailOf(Error(absl::StatusCode::kInternal, "", detail)).ByteSizeLong(),
      kErrorDetailBytesMax);
}

TEST(ErrorTest, AMessageFitsWhenGrpcHasEscapedIt) {
  for (const char* text : {"%", "\n", "\u00e9", "x"}) {
    std::string message;
    while (message.size() < 100000) message += text;
    const grpc::Status status =
        ToGrpcStatus(absl::Status(absl::StatusCode::kInternal, message));
    size_t encoded = 0;
    for (const char c : status.error_message()) {
      encoded += c >= ' ' && c <= '~' && c != '%' ? 1 : 3;
    }
    EXPECT_LE(encoded, 2100) << text;
    EXPECT_GT(encoded, 1900) << text;
  }
}

TEST(CutTextTest, CutsBetweenCharacters) {
  EXPECT_EQ(CutText("short", 5), "short");
  EXPECT_EQ(CutText("longer", 5), "lo...");
  EXPECT_EQ(CutText("a\u00e9\u00e9\u00e9", 6), "a\u00e9...");
  EXPECT_EQ(CutText("\u00e9\u00e9\u00e9", 4), "...");
}

TEST(CompressRanksTest, JoinsNeighbours) {
  EXPECT_EQ(CompressRanks({}).ranges(), "");
  EXPECT_EQ(CompressRanks({5}).ranges(), "5");
  EXPECT_EQ(CompressRanks({0, 1, 2, 3, 17}).ranges(), "0-3,17");
  EXPECT_EQ(CompressRanks({0, 2, 2, 3}).ranges(), "0,2-3");
}

TEST(CompressRanksTest, CutsAtACommaAndKeepsTheCount) {
  std::vector<int64_t> odd(5000);
  for (int i = 0; i < 5000; ++i) odd[i] = 2 * i + 1;
  const v1::MemberSet set = CompressRanks(odd, 100);
  EXPECT_LE(set.ranges().size(), 100);
  EXPECT_TRUE(set.truncated());
  EXPECT_EQ(set.rank_count(), 5000);
  EXPECT_THAT(set.ranges(), testing::StartsWith("1,3,5,"));
  EXPECT_NE(set.ranges().back(), ',');
}

}  // namespace
}  // namespace shardwright
