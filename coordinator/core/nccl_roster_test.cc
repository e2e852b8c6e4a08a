// What members say of their GPUs and NCCL when they register, and who is
// refused for it, by name.

#include "coordinator/core/nccl_roster.h"

#include <string>

#include "coordinator/core/core_driver.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class NcclRosterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4)), IsOk());
  }

  static v1::MemberFacts Facts(const std::string& host,
                               const std::string& gpu) {
    v1::MemberFacts facts;
    facts.set_host(host);
    facts.set_device(gpu);
    facts.set_comm_backend("nccl");
    facts.set_nccl_version("2.28.9");
    facts.set_nccl_address("10.0.0.1");
    return facts;
  }

  static v1::MemberFacts LoopbackFacts(const std::string& host,
                                       const std::string& gpu) {
    v1::MemberFacts facts = Facts(host, gpu);
    facts.set_nccl_address("127.0.0.1");
    return facts;
  }

  CoreDriver driver_;
};

TEST_F(NcclRosterTest, TwoWorkersOfOneGpuAreRefused) {
  ASSERT_THAT(driver_.Register({0, 7}, Facts("host-a", "GPU-1")), IsOk());
  driver_.Pass(absl::Seconds(4));
  const auto second = driver_.Register({1, 8}, Facts("host-a", "GPU-1"));
  EXPECT_THAT(second, HasReason("GPU_IN_USE"));
  EXPECT_THAT(second.status().message(),
              AllOf(HasSubstr("rank 1 (WORKER)"), HasSubstr("GPU-1"),
                    HasSubstr("rank 0 (WORKER), host-a, pid 1007")));
  // What a client needs to wait for a holder that may be dead.
  const auto metadata = DetailOf(second.status()).metadata();
  EXPECT_EQ(metadata.at("holder_incarnation"), "7");
  EXPECT_EQ(metadata.at("lease_remaining_ms"), "6000");
  EXPECT_EQ(metadata.at("term"), "1");
  EXPECT_THAT(driver_.Register({1, 8}, Facts("host-a", "GPU-2")), IsOk());
}

TEST_F(NcclRosterTest, ATrainerSharesTheGpuOfItsWorker) {
  ASSERT_THAT(driver_.Register({0, 7}, Facts("host-a", "GPU-1")), IsOk());
  EXPECT_THAT(driver_.Register({0, 8, v1::TRAINER}, Facts("host-a", "GPU-1")),
              IsOk());
}

TEST_F(NcclRosterTest, AGpuIsFreeAgainWhenItsWorkerIsGone) {
  const TestMember first = {0, 7};
  ASSERT_THAT(driver_.Register(first, Facts("host-a", "GPU-1")), IsOk());
  ASSERT_THAT(driver_.Leave(first), IsOk());
  EXPECT_THAT(driver_.Register({1, 8}, Facts("host-a", "GPU-1")), IsOk());
  driver_.Pass(absl::Seconds(10));
  EXPECT_THAT(driver_.Register({2, 9}, Facts("host-a", "GPU-1")), IsOk());
}

TEST_F(NcclRosterTest, AWorkerThatRegistersAgainIsNotInItsOwnWay) {
  ASSERT_THAT(driver_.Register({0, 7}, Facts("host-a", "GPU-1")), IsOk());
  EXPECT_THAT(driver_.Register({0, 7}, Facts("host-a", "GPU-1")), IsOk());
  v1::MemberFacts other_facts = LoopbackFacts("host-b", "GPU-2");
  other_facts.set_nccl_version("2.27.3");
  EXPECT_THAT(driver_.Register({0, 7}, other_facts), IsOk());
  // Its former GPU is free.
  v1::MemberFacts next = LoopbackFacts("host-b", "GPU-1");
  next.set_nccl_version("2.27.3");
  EXPECT_THAT(driver_.Register({1, 8}, next), IsOk());
}

TEST_F(NcclRosterTest, ARestartedCoordinatorKnowsTheGpusThatAreInUse) {
  ASSERT_THAT(driver_.Register({0, 7}, Facts("host-a", "GPU-1")), IsOk());
  driver_.Restart();
  EXPECT_THAT(driver_.Register({1, 8}, Facts("host-a", "GPU-1")),
              HasReason("GPU_IN_USE"));
}

TEST_F(NcclRosterTest, MixedVersionsAreRefused) {
  ASSERT_THAT(driver_.Register({0, 7}, Facts("host-a", "GPU-1")), IsOk());
  v1::MemberFacts older = Facts("host-b", "GPU-2");
  older.set_nccl_version("2.27.3");
  const auto second = driver_.Register({1, 8}, older);
  EXPECT_THAT(second, HasReason("MIXED_NCCL_VERSIONS"));
  EXPECT_THAT(second.status().message(),
              AllOf(HasSubstr("facts.nccl_version is 2.27.3"),
                    HasSubstr("there is 2.28.9"), HasSubstr("host-a")));
  // Those without NCCL have nothing to do with it.
  EXPECT_THAT(driver_.Register({2, 9}, "host-c"), IsOk());
}

TEST_F(NcclRosterTest, ALoopbackAddressIsRefusedAcrossHosts) {
  ASSERT_THAT(driver_.Register({0, 7}, LoopbackFacts("host-a", "GPU-1")),
              IsOk());
  // All on one host may use it.
  ASSERT_THAT(driver_.Register({1, 8}, LoopbackFacts("host-a", "GPU-2")),
              IsOk());
  const auto other = driver_.Register({2, 9}, Facts("host-b", "GPU-3"));
  EXPECT_THAT(other, HasReason("NCCL_LOOPBACK_ADDRESS"));
  EXPECT_THAT(other.status().message(),
              AllOf(HasSubstr("NCCL uses a loopback address on host-a"),
                    HasSubstr("rank 0 (WORKER)")));
}

TEST_F(NcclRosterTest, WhoBringsALoopbackAddressToAnotherHostIsRefused) {
  ASSERT_THAT(driver_.Register({0, 7}, Facts("host-a", "GPU-1")), IsOk());
  v1::MemberFacts ipv6 = Facts("host-b", "GPU-2");
  ipv6.set_nccl_address("::1");
  for (const v1::MemberFacts& facts :
       {LoopbackFacts("host-b", "GPU-2"), ipv6}) {
    const auto second = driver_.Register({1, 8}, facts);
    EXPECT_THAT(second, HasReason("NCCL_LOOPBACK_ADDRESS"));
    EXPECT_THAT(second.status().message(),
                AllOf(HasSubstr("facts.nccl_address is " +
                                facts.nccl_address() + " on host-b"),
                      HasSubstr("NCCL_SOCKET_IFNAME")));
  }
  EXPECT_THAT(driver_.Register({1, 8}, LoopbackFacts("host-a", "GPU-2")),
              IsOk());
}

TEST_F(NcclRosterTest, AFixedCommIdIsRefused) {
  v1::MemberFacts facts = Facts("host-a", "GPU-1");
  facts.set_nccl_comm_id_set(true);
  const auto refused = driver_.Register({0, 7}, facts);
  EXPECT_THAT(refused, HasReason("NCCL_COMM_ID_SET"));
  EXPECT_THAT(refused.status().message(), HasSubstr("unset NCCL_COMM_ID"));
}

TEST_F(NcclRosterTest, JobsDoNotShareARoster) {
  ASSERT_THAT(driver_.Register({0, 7}, Facts("host-a", "GPU-1")), IsOk());
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2, 1, "other")), IsOk());
  TestMember elsewhere = {0, 8};
  elsewhere.job = "other";
  EXPECT_THAT(driver_.Register(elsewhere, Facts("host-a", "GPU-1")), IsOk());
}

}  // namespace
}  // namespace shardwright
