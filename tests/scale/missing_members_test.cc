// Half of ten thousand members do not come. Everybody who waits must learn who
// is missing, in an error that survives gRPC, and get the rest page by page.

#include <chrono>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/error.h"
#include "proto/status/grpc_status.h"
#include "proto/status/status_matchers.h"
#include "shardwright/v1/diagnostics.grpc.pb.h"
#include "tests/scale/server_process.h"
#include "tests/scale/simulated_members.h"

namespace shardwright {
namespace {

constexpr int64_t kRanks = 10000;
constexpr size_t kDetailBytesMax = 4096;

// Long enough for all to come on a busy machine, so that all are told the same.
constexpr std::chrono::seconds kTimeout(20);

std::vector<int64_t> EveryOther(int64_t first) {
  std::vector<int64_t> ranks;
  for (int64_t rank = first; rank < kRanks; rank += 2) ranks.push_back(rank);
  return ranks;
}

// All ranks of a report, page by page.
std::vector<int64_t> ListMissing(const SimulatedMembers& members,
                                 const std::string& report) {
  v1::DiagnosticsService::Stub stub(members.channel());
  v1::ListMissingMembersRequest request;
  request.set_report(report);
  request.set_page_size(1000);
  std::vector<int64_t> ranks;
  do {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kTimeout);
    context.set_wait_for_ready(true);
    v1::ListMissingMembersResponse response;
    const grpc::Status status =
        stub.ListMissingMembers(&context, request, &response);
    EXPECT_TRUE(status.ok()) << report << ": " << status.error_message();
    if (!status.ok()) return ranks;
    EXPECT_EQ(response.total_count(), kRanks / 2);
    EXPECT_LE(response.members_size(), 1000);
    for (const v1::Member& member : response.members()) {
      ranks.push_back(member.member().rank());
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return ranks;
}

class MissingMembersTest : public ::testing::Test {
 protected:
  MissingMembersTest()
      : coordinator_("coordinator/coordinatord",
                     {"--store", "memory", "--lease-ttl", "600"}),
        members_(coordinator_.address(), kRanks) {}

  void SetUp() override {
    ASSERT_THAT(members_.Register(EveryOther(0)), IsOk());
  }

  // What each of the even ranks must have been told.
  void ExpectOddRanksMissing(const std::vector<WaitResult>& results) {
    ASSERT_EQ(results.size(), kRanks / 2);
    int failures = 0;
    for (const WaitResult& result : results) {
      const v1::ErrorDetail detail = DetailOf(result.status);
      EXPECT_THAT(result.status, StatusIs(absl::StatusCode::kDeadlineExceeded,
                                          ::testing::HasSubstr("1,3,5,")));
      EXPECT_EQ(detail.reason(), "MEMBERS_MISSING");
      EXPECT_LE(detail.ByteSizeLong(), kDetailBytesMax);
      EXPECT_EQ(detail.missing().rank_count(), kRanks / 2);
      EXPECT_TRUE(detail.missing().truncated());
      EXPECT_NE(detail.missing().report(), "");
      EXPECT_GE(result.progress_count, 1);
      EXPECT_GT(result.missing.rank_count(), 0);
      EXPECT_NE(result.missing.ranges(), "");
      // One member's trouble tells as much as that of five thousand.
      if (HasFailure() && ++failures == 3) return;
    }
    for (const size_t i : {size_t{0}, results.size() - 1}) {
      EXPECT_EQ(
          ListMissing(members_, DetailOf(results[i].status).missing().report()),
          EveryOther(1));
    }
  }

  ServerProcess coordinator_;
  SimulatedMembers members_;
};

TEST_F(MissingMembersTest, EverybodyAtABarrierLearnsWhoIsMissing) {
  members_.StartBarrier(EveryOther(0), "step", kTimeout);
  ExpectOddRanksMissing(members_.Wait());
}

TEST_F(MissingMembersTest, EverybodyWhoFormsLearnsWhoIsMissing) {
  members_.StartForming(EveryOther(0), kTimeout);
  ExpectOddRanksMissing(members_.Wait());
}

}  // namespace
}  // namespace shardwright
