#include "worker/device/process_identity.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const ProcessIdentity kWorker = {1, "4026531836", "boot-a", "22"};

TEST(ProcessIdentityTest, IsReadFromThisMachine) {
  const ProcessIdentity own = OwnProcessIdentity();
  EXPECT_GT(own.pid, 0);
  EXPECT_FALSE(own.pid_namespace.empty());
  EXPECT_FALSE(own.boot_id.empty());
  EXPECT_FALSE(own.shm_device.empty());
}

TEST(ProcessIdentityTest, AnotherProcessOfTheMachineSharesAll) {
  ProcessIdentity trainer = kWorker;
  trainer.pid = 2;
  EXPECT_THAT(CheckSharesMemory(kWorker, trainer), IsOk());
  EXPECT_EQ(WhyNoSharedEvents(kWorker, trainer), "");
}

TEST(ProcessIdentityTest, AnotherMachineSharesNothing) {
  ProcessIdentity trainer = kWorker;
  trainer.pid = 2;
  trainer.boot_id = "boot-b";
  EXPECT_THAT(CheckSharesMemory(kWorker, trainer),
              AllOf(HasReason("NO_CUDA_IPC"),
                    StatusIs(absl::StatusCode::kFailedPrecondition,
                             HasSubstr("boot_id is \"boot-b\", the worker's "
                                       "\"boot-a\""))));
}

TEST(ProcessIdentityTest, TheSamePidIsTheSameProcessOrACollision) {
  ProcessIdentity trainer = kWorker;
  EXPECT_THAT(CheckSharesMemory(kWorker, trainer),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("the worker itself")));
  trainer.pid_namespace = "4026532000";
  EXPECT_THAT(CheckSharesMemory(kWorker, trainer),
              AllOf(HasReason("NO_CUDA_IPC"),
                    StatusIs(absl::StatusCode::kFailedPrecondition,
                             HasSubstr("shareProcessNamespace"))));
}

TEST(ProcessIdentityTest, EventsNeedOneSharedMemoryFileSystem) {
  ProcessIdentity trainer = kWorker;
  trainer.shm_device = "23";
  EXPECT_THAT(WhyNoSharedEvents(kWorker, trainer), HasSubstr("\"23\""));
  EXPECT_NE(WhyNoSharedEvents(ProcessIdentity(), ProcessIdentity()), "");
}

}  // namespace
}  // namespace shardwright
