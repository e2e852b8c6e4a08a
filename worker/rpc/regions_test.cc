// Regions of device memory and tables by plan digest, as trainers see them:
// through the client, over real gRPC. The device is host memory that behaves as
// a GPU's; the kernels are tested elsewhere.

#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/device/process_identity.h"
#include "worker/rpc/region_table.h"
#include "worker/rpc/regions_fixture.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(RegionsTest, CopiesBetweenRegionsAndBack) {
  const auto response = Run({Operation()});
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(gpu_.BytesOf("shard"), "..bb--aa");
  EXPECT_EQ(response->copied_bytes(), 4);
  EXPECT_THAT(response->outputs(0).tensors(), ElementsAre(""));
  v1::CopyOperation adjoint = Operation();
  adjoint.set_adjoint(true);
  ASSERT_THAT(Run({adjoint}), IsOk());
  EXPECT_EQ(gpu_.BytesOf("source"), std::string(".aabb\0\0.", 8));
}

TEST_F(RegionsTest, OperationsOfOneCallKeepTheirOrder) {
  gpu_.Allocate("third", "????????");
  const auto third = client_.RegisterRegion(Registration("third", 0));
  ASSERT_THAT(third, IsOk());
  v1::CopyOperation next = Operation();
  next.mutable_sources(0)->mutable_region()->set_id(shard_id_);
  SetRange(next.mutable_destination(), third->region_id(), 0, 6);
  ASSERT_THAT(Run({Operation(), next}), IsOk());
  EXPECT_EQ(gpu_.BytesOf("third"), "----bb??");
  EXPECT_THAT(gpu_.starts(), ElementsAre(1, 1));
}

TEST_F(RegionsTest, OperationsThatAreIndependentStartTogether) {
  gpu_.Allocate("third", "????????");
  const auto third = client_.RegisterRegion(Registration("third", 0));
  ASSERT_THAT(third, IsOk());
  v1::CopyOperation other = Operation();
  SetRange(other.mutable_destination(), third->region_id(), 0, 6);
  ASSERT_THAT(Run({Operation(), other}), IsOk());
  EXPECT_THAT(gpu_.starts(), ElementsAre(2));
}

TEST_F(RegionsTest, HostAndDeviceOperationsMayShareACall) {
  v1::CopyOperation inlined = Operation();
  inlined.mutable_sources(0)->set_inline_data("xxyyzz");
  inlined.mutable_destination()->set_inline_data("??????");
  const auto response = Run({Operation(), inlined});
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(gpu_.BytesOf("shard"), "..bb--aa");
  EXPECT_THAT(response->outputs(1).tensors(), ElementsAre("yy--xx"));
}

TEST_F(RegionsTest, WithEventsTheWorkerWaitsForTheTrainersStream) {
  EXPECT_EQ(session_->gpu().order(), v1::GpuSession::EVENTS);
  gpu_.Hold();
  std::thread runs([this] { EXPECT_THAT(Run({Operation()}), IsOk()); });
  EXPECT_THAT(client_.Describe(), IsOk());  // Others need not wait.
  EXPECT_TRUE(gpu_.starts().empty());
  gpu_.Release();
  runs.join();
  EXPECT_EQ(gpu_.BytesOf("shard"), "..bb--aa");
}

TEST_F(RegionsTest, WithoutEventsTheTrainerHasWaited) {
  v1::TrainerGpu trainer = Trainer();
  trainer.clear_ready_event();
  Open(trainer);
  EXPECT_EQ(session_->gpu().order(), v1::GpuSession::HOST);
  EXPECT_THAT(session_->gpu().order_reason(), HasSubstr("gave no event"));
  gpu_.Hold();
  EXPECT_THAT(Run({Operation()}), IsOk());
  EXPECT_EQ(gpu_.BytesOf("shard"), "..bb--aa");
}

TEST_F(RegionsTest, TheAnswerComesWhenTheBytesHaveMoved) {
  gpu_.SetBusy(true);
  std::thread ends([this] {
    EXPECT_TRUE(Eventually([this] { return !gpu_.starts().empty(); }));
    gpu_.SetBusy(false);
  });
  EXPECT_THAT(Run({Operation()}), IsOk());
  ends.join();
}

TEST_F(RegionsTest, ATrainerThatLeavesWhileItsSessionOpensLeavesNone) {
  gpu_.HoldNewStreams(true);
  WorkerClient::Options options;
  options.call_timeout = absl::Milliseconds(500);
  const WorkerClient impatient =
      WorkerClient::Create(server_->address(), options);
  v1::OpenSessionRequest request;
  *request.mutable_gpu() = Trainer();
  EXPECT_THAT(impatient.OpenSession(request),
              StatusIs(absl::StatusCode::kDeadlineExceeded, testing::_));
  EXPECT_EQ(gpu_.waiting_stream_count(), 1);
  EXPECT_THAT(client_.Describe(), IsOk());  // Others need not wait.
  gpu_.HoldNewStreams(false);
  EXPECT_TRUE(Eventually([&] { return gpu_.waiting_stream_count() == 0; }));
  EXPECT_TRUE(
      Eventually([&] { return client_.Describe()->session_count() == 1; }));
  EXPECT_THAT(Run({Operation()}), IsOk());
}

TEST_F(RegionsTest, ManySessionsThatOpenKeepNobodyWaiting) {
  gpu_.HoldNewStreams(true);
  std::vector<std::thread> trainers;
  for (int i = 0; i < 32; ++i) {
    trainers.emplace_back([&] {
      v1::OpenSessionRequest request;
      *request.mutable_gpu() = Trainer();
      EXPECT_THAT(client_.OpenSession(request), IsOk());
    });
  }
  EXPECT_TRUE(Eventually([&] { return gpu_.waiting_stream_count() > 0; }));
  EXPECT_THAT(client_.Describe(), IsOk());
  // However many come: they have not gRPC's threads.
  EXPECT_LE(gpu_.waiting_stream_count(), WorkerService::kCopyThreads);
  gpu_.HoldNewStreams(false);
  for (std::thread& trainer : trainers) trainer.join();
}

TEST_F(RegionsTest, EventsThatCannotBeSharedAreSaidWhy) {
  v1::TrainerGpu trainer = Trainer();
  trainer.mutable_process()->set_shm_device("elsewhere");
  Open(trainer);
  EXPECT_EQ(session_->gpu().order(), v1::GpuSession::HOST);
  EXPECT_THAT(session_->gpu().order_reason(), HasSubstr("/dev/shm"));
  trainer = Trainer();
  trainer.set_ready_event("short");
  Open(trainer);
  EXPECT_THAT(session_->gpu().order_reason(), HasSubstr("has 5 bytes"));
  trainer.set_ready_event(FakeRegionDevice::Handle("unknown"));
  Open(trainer);
  EXPECT_THAT(session_->gpu().order_reason(), HasSubstr("no such event"));
}

TEST_F(RegionsTest, ATrainerThatCannotShareMemoryIsRefused) {
  v1::OpenSessionRequest request;
  *request.mutable_gpu() = Trainer();
  request.mutable_gpu()->set_gpu_uuid("GPU-other");
  EXPECT_THAT(client_.OpenSession(request),
              AllOf(HasReason("GPU_NOT_SERVED"),
                    StatusIs(absl::StatusCode::kFailedPrecondition,
                             HasSubstr("gpu_uuid is \"GPU-other\", but this "
                                       "worker serves GPU-fake"))));
  *request.mutable_gpu() = Trainer();
  request.mutable_gpu()->mutable_process()->set_pid(OwnProcessIdentity().pid);
  EXPECT_THAT(client_.OpenSession(request), HasReason("NO_CUDA_IPC"));
}

TEST_F(RegionsTest, AWorkerWithoutAGpuSaysSo) {
  WorkerService service(host_, cliques_,
                        [] { return v1::WorkerDescription(); });
  const auto server = *WorkerServer::Start("127.0.0.1:0", service);
  const WorkerClient client = WorkerClient::Create(server->address());
  v1::OpenSessionRequest request;
  *request.mutable_gpu() = Trainer();
  EXPECT_THAT(client.OpenSession(request), HasReason("GPU_NOT_SERVED"));
  const auto session = client.OpenSession({});
  ASSERT_THAT(session, IsOk());
  v1::RegisterRegionRequest registration;
  registration.set_session_id((*session)->id());
  EXPECT_THAT(client.RegisterRegion(registration), HasReason("INVALID_REGION"));
  v1::RunCopiesRequest run;
  run.set_session_id((*session)->id());
  *run.add_operations() = Operation();
  EXPECT_THAT(client.RunCopies(run),
              AllOf(HasReason("INVALID_TENSOR"),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("the session has no GPU"))));
}

TEST_F(RegionsTest, UnregisteringWaitsForWhatRuns) {
  gpu_.SetBusy(true);
  std::thread runs([this] { EXPECT_THAT(Run({Operation()}), IsOk()); });
  EXPECT_TRUE(Eventually([this] { return !gpu_.starts().empty(); }));
  std::thread ends([this] {
    // No copy finds the region from the time that it is being unregistered.
    EXPECT_TRUE(Eventually([this] {
      return client_.Describe()->sessions(0).region_count() == 1;
    }));
    EXPECT_EQ(gpu_.mapping_count(), 2);
    gpu_.SetBusy(false);
  });
  EXPECT_THAT(Unregister(source_id_), IsOk());
  runs.join();
  ends.join();
  EXPECT_EQ(gpu_.mapping_count(), 1);
  EXPECT_THAT(Run({Operation()}), StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr("no such region")));
  EXPECT_THAT(Unregister(source_id_), HasReason("REGION_NOT_FOUND"));
}

TEST_F(RegionsTest, TheEndOfTheSessionEndsWhatWaitsAndUnmapsAll) {
  EXPECT_EQ(gpu_.mapping_count(), 2);
  gpu_.Hold();
  std::thread waits([this, id = session_->id()] {
    v1::RunCopiesRequest request;
    request.set_session_id(id);
    *request.add_operations() = Operation();
    EXPECT_THAT(client_.RunCopies(request), HasReason("SESSION_NOT_FOUND"));
  });
  session_ = nullptr;
  EXPECT_TRUE(Eventually([this] { return gpu_.mapping_count() == 0; }));
  waits.join();
  EXPECT_EQ(gpu_.BytesOf("shard"), "..??????");
  gpu_.Release();
  Open(Trainer());  // The worker lives.
  EXPECT_THAT(Run({Operation()}), IsOk());
}

TEST_F(RegionsTest, WhoWaitsForAStreamKeepsNobodyFromHostCopies) {
  gpu_.Hold();
  std::vector<std::thread> waits;
  for (int i = 0; i < 4; ++i) {
    waits.emplace_back([this] { EXPECT_THAT(Run({Operation()}), IsOk()); });
  }
  v1::CopyOperation inlined = Operation();
  inlined.mutable_sources(0)->set_inline_data("xxyyzz");
  inlined.mutable_destination()->set_inline_data("??????");
  EXPECT_THAT(Run({inlined}), IsOk());
  EXPECT_TRUE(gpu_.starts().empty());
  gpu_.Release();
  for (std::thread& thread : waits) thread.join();
}

TEST_F(RegionsTest, WhatNeverEndsIsLeftAndTheWorkerLives) {
  gpu_.SetBusy(true);
  std::thread waits([this, id = session_->id()] {
    v1::RunCopiesRequest request;
    request.set_session_id(id);
    *request.add_operations() = Operation();
    EXPECT_THAT(client_.RunCopies(request), HasReason("SESSION_NOT_FOUND"));
  });
  EXPECT_TRUE(Eventually([this] { return !gpu_.starts().empty(); }));
  session_ = nullptr;
  waits.join();
  EXPECT_EQ(gpu_.mapping_count(), 2);
  gpu_.SetBusy(false);
  Open(Trainer());
  EXPECT_THAT(Run({Operation()}), IsOk());
}

TEST_F(RegionsTest, ThereIsALimitToTheRegionsOfASession) {
  for (int i = 2; i < RegionTable::kRegionsMax; ++i) {
    ASSERT_THAT(client_.RegisterRegion(Registration("source", 0)), IsOk());
  }
  EXPECT_THAT(client_.RegisterRegion(Registration("source", 0)),
              HasReason("TOO_MANY_REGIONS"));
  ASSERT_THAT(Unregister(source_id_), IsOk());
  EXPECT_THAT(client_.RegisterRegion(Registration("source", 0)), IsOk());
}

TEST_F(RegionsTest, DescriptionHasNoSecrets) {
  const auto description = client_.Describe();
  ASSERT_THAT(description, IsOk());
  ASSERT_EQ(description->sessions_size(), 1);
  EXPECT_EQ(description->sessions(0).region_count(), 2);
  EXPECT_EQ(description->sessions(0).region_bytes(), 12);
  EXPECT_EQ(description->sessions(0).order(), "events");
  EXPECT_EQ(description->context_memory_bytes(), 512 << 20);
  const std::string text = description->DebugString();
  EXPECT_THAT(text, Not(HasSubstr(session_->id())));
  EXPECT_THAT(text, Not(HasSubstr("source.")));
}

TEST_F(RegionsTest, ATableIsNamedAndThenKnown) {
  v1::CopyOperation operation = Operation();
  *operation.mutable_plan_table() = Name(7);
  v1::CopyOperation named = operation;
  named.clear_table();
  EXPECT_THAT(Run({named}), AllOf(HasReason("PLAN_UNKNOWN"),
                                  StatusIs(absl::StatusCode::kNotFound,
                                           HasSubstr("0000000000000007"))));
  ASSERT_THAT(Run({operation}), IsOk());
  gpu_.Allocate("shard", "..??????");
  ASSERT_THAT(Run({named}), IsOk());
  EXPECT_EQ(gpu_.BytesOf("shard"), "..bb--aa");
  EXPECT_EQ(client_.Describe()->sessions(0).table_count(), 1);
  // Another rank's, and the labels', are other tables.
  named.mutable_plan_table()->set_rank(5);
  EXPECT_THAT(Run({named}), HasReason("PLAN_UNKNOWN"));
  *named.mutable_plan_table() = Name(7);
  named.mutable_plan_table()->set_kind(v1::PlanTable::LABELS);
  EXPECT_THAT(Run({named}), HasReason("PLAN_UNKNOWN"));
}

TEST_F(RegionsTest, NamedTablesServeHostTensorsToo) {
  v1::CopyOperation operation = Operation();
  *operation.mutable_plan_table() = Name(7);
  ASSERT_THAT(Run({operation}), IsOk());
  operation.clear_table();
  operation.mutable_sources(0)->set_inline_data("xxyyzz");
  operation.mutable_destination()->set_inline_data("??????");
  const auto response = Run({operation});
  ASSERT_THAT(response, IsOk());
  EXPECT_THAT(response->outputs(0).tensors(), ElementsAre("yy--xx"));
}

TEST_F(RegionsTest, TwoTablesOfOneNameAreRefused) {
  v1::CopyOperation operation = Operation();
  *operation.mutable_plan_table() = Name(7);
  ASSERT_THAT(Run({operation}), IsOk());
  operation.mutable_table()->mutable_entries(0)->set_source_row(2);
  EXPECT_THAT(Run({operation}),
              AllOf(HasReason("PLAN_DIFFERS"),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("keeps another table of the embeddings "
                                       "of plan digest 0000000000000007"))));
}

TEST_F(RegionsTest, TablesOfOneSessionAreNotAnothers) {
  v1::CopyOperation operation = Operation();
  *operation.mutable_plan_table() = Name(7);
  ASSERT_THAT(Run({operation}), IsOk());
  Open(Trainer());
  operation = Operation();
  *operation.mutable_plan_table() = Name(7);
  operation.clear_table();
  EXPECT_THAT(Run({operation}), HasReason("PLAN_UNKNOWN"));
}

}  // namespace
}  // namespace shardwright
