// The server as a client sees it, over real gRPC on a loopback port: what the
// core's own tests cannot see. Statuses keep their details, streams park
// without a thread, clients that go away are noticed, a shutdown leaves nobody
// waiting.

#include "coordinator/rpc/server.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "coordinator/storage/memory_state_store.h"
#include "gmock/gmock.h"
#include "google/protobuf/wrappers.pb.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "gtest/gtest.h"
#include "proto/status/grpc_status.h"
#include "proto/status/status_matchers.h"
#include "spdlog/sinks/ringbuffer_sink.h"
#include "spdlog/spdlog.h"

namespace shardwright {
namespace {

using ::testing::SizeIs;

constexpr std::chrono::seconds kCallTimeout(20);

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto core = CoordinatorCore::Start(store_, {}, absl::Now());
    ASSERT_THAT(core, IsOk());
    loop_ = std::make_unique<CoreLoop>(*std::move(core), [] {
      static const absl::Time start = absl::Now();
      static const auto steady = std::chrono::steady_clock::now();
      return start +
             absl::FromChrono(std::chrono::steady_clock::now() - steady);
    });
    auto server = CoordinatorServer::Start("127.0.0.1:0", *loop_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->address(),
                                   grpc::InsecureChannelCredentials());
    layouts_ = v1::LayoutService::NewStub(channel_);
    membership_ = v1::MembershipService::NewStub(channel_);
    communicators_ = v1::CommunicatorService::NewStub(channel_);
    barriers_ = v1::BarrierService::NewStub(channel_);
    plans_ = v1::PlanService::NewStub(channel_);
  }

  std::unique_ptr<grpc::ClientContext> Context() {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() + kCallTimeout);
    return context;
  }

  absl::StatusOr<v1::ApplyLayoutResponse> ApplyLayout(int64_t world_size,
                                                      int64_t tp) {
    v1::ApplyLayoutRequest request;
    v1::Layout& layout = *request.mutable_layout();
    layout.set_name("job");
    layout.set_world_size(world_size);
    v1::Module& module = *layout.add_modules();
    module.set_name("language");
    module.set_role(v1::LANGUAGE);
    module.set_first_rank(0);
    module.set_rank_count(world_size);
    module.mutable_parallelism()->set_tp(tp);
    module.mutable_parallelism()->set_sequence_parallel(true);
    v1::ApplyLayoutResponse response;
    const absl::Status status = FromGrpcStatus(
        layouts_->ApplyLayout(Context().get(), request, &response));
    if (!status.ok()) return status;
    digest_ = response.digest();
    return response;
  }

  v1::Caller CallerOf(int64_t rank) {
    v1::Caller caller;
    caller.mutable_member()->set_job("job");
    caller.mutable_member()->set_rank(rank);
    caller.mutable_member()->set_kind(v1::WORKER);
    caller.set_incarnation(100 + rank);
    caller.set_generation(1);
    return caller;
  }
  absl::Status Register(int64_t rank, uint64_t incarnation = 0) {
    v1::RegisterRequest request;
    *request.mutable_member() = CallerOf(rank).member();
    request.set_incarnation(incarnation == 0 ? 100 + rank : incarnation);
    request.mutable_facts()->set_host("host-a");
    v1::RegisterResponse response;
    return FromGrpcStatus(
        membership_->Register(Context().get(), request, &response));
  }
  v1::FormCommunicatorsRequest FormRequest(int64_t rank, int64_t seconds) {
    v1::FormCommunicatorsRequest request;
    *request.mutable_caller() = CallerOf(rank);
    request.set_backend(v1::GLOO);
    request.set_layout_digest(digest_);
    request.mutable_timeout()->set_seconds(seconds);
    request.add_kinds("tp");
    return request;
  }

  // What a worker does, without connecting anything.
  absl::Status FormAsMember(int64_t rank) {
    auto context = Context();
    const auto stream =
        communicators_->FormCommunicators(context.get(), FormRequest(rank, 10));
    v1::FormCommunicatorsResponse event;
    while (stream->Read(&event)) {
      if (event.has_go()) {
        v1::PublishSlotsRequest request;
        *request.mutable_caller() = CallerOf(rank);
        for (const int32_t index : event.go().slot_indexes()) {
          v1::Slot& slot = *request.add_slots();
          *slot.mutable_attempt() = event.go().attempt();
          slot.set_index(index);
          slot.set_value("address of " + std::to_string(rank));
        }
        v1::PublishSlotsResponse response;
        EXPECT_TRUE(
            communicators_->PublishSlots(Context().get(), request, &response)
                .ok());
      } else if (event.has_slots()) {
        EXPECT_EQ(event.slots().values(1), "address of 1");
        v1::ReportCommunicatorsRequest request;
        *request.mutable_caller() = CallerOf(rank);
        v1::CommunicatorReport& report = *request.add_reports();
        *report.mutable_attempt() = event.slots().attempt();
        report.set_ok(true);
        v1::ReportCommunicatorsResponse response;
        EXPECT_TRUE(
            communicators_
                ->ReportCommunicators(Context().get(), request, &response)
                .ok());
      }
    }
    return FromGrpcStatus(stream->Finish());
  }

  MemoryStateStore store_;
  std::unique_ptr<CoreLoop> loop_;
  std::unique_ptr<CoordinatorServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::LayoutService::Stub> layouts_;
  std::unique_ptr<v1::MembershipService::Stub> membership_;
  std::unique_ptr<v1::CommunicatorService::Stub> communicators_;
  std::unique_ptr<v1::BarrierService::Stub> barriers_;
  std::unique_ptr<v1::PlanService::Stub> plans_;
  uint64_t digest_ = 0;
};

TEST_F(ServerTest, ReportsItselfHealthy) {
  // The wrappers have the wire form of grpc.health.v1's messages.
  const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check",
                                         grpc::internal::RpcMethod::NORMAL_RPC,
                                         channel_);
  const google::protobuf::StringValue request;
  google::protobuf::Int32Value response;
  const auto context = Context();
  const grpc::Status status = grpc::internal::BlockingUnaryCall<
      google::protobuf::StringValue, google::protobuf::Int32Value,
      google::protobuf::MessageLite, google::protobuf::MessageLite>(
      channel_.get(), method, context.get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  constexpr int kServing = 1;
  EXPECT_EQ(response.value(), kServing);
}

TEST_F(ServerTest, RefusesAPortThatIsTaken) {
  EXPECT_THAT(CoordinatorServer::Start(server_->address(), *loop_),
              HasReason("LISTEN_FAILED"));
}

TEST_F(ServerTest, LayoutsComeBackAsTheyWereApplied) {
  ASSERT_THAT(ApplyLayout(4, 2), IsOk());
  v1::GetLayoutRequest request;
  request.set_job("job");
  v1::GetLayoutResponse response;
  ASSERT_TRUE(layouts_->GetLayout(Context().get(), request, &response).ok());
  EXPECT_EQ(response.layout().world_size(), 4);
  EXPECT_EQ(response.generation(), 1);
  EXPECT_EQ(response.digest(), digest_);

  v1::ListLayoutsResponse listed;
  ASSERT_TRUE(layouts_->ListLayouts(Context().get(), {}, &listed).ok());
  ASSERT_THAT(listed.layouts(), SizeIs(1));

  v1::ExplainRankRequest explain;
  explain.set_job("job");
  explain.set_rank(3);
  v1::RankExplanation explanation;
  ASSERT_TRUE(
      layouts_->ExplainRank(Context().get(), explain, &explanation).ok());
  EXPECT_EQ(explanation.coordinates().tp(), 1);
  EXPECT_EQ(explanation.coordinates().dp(), 1);
  EXPECT_EQ(explanation.generation(), 1);
}

TEST_F(ServerTest, RefusalsKeepTheirDetails) {
  const auto invalid = ApplyLayout(4, 3);
  EXPECT_THAT(invalid, HasReason("INVALID_LAYOUT"));
  EXPECT_GT(DetailOf(invalid.status()).violations_size(), 0);
  ASSERT_THAT(ApplyLayout(4, 2), IsOk());
  ASSERT_THAT(Register(1), IsOk());
  const absl::Status in_use = Register(1, 999);
  EXPECT_THAT(in_use, HasReason("MEMBER_ID_IN_USE"));
  EXPECT_EQ(DetailOf(in_use).metadata().at("holder_host"), "host-a");
}

TEST_F(ServerTest, PlansCarryTheGenerationAndRefuseAnOldOne) {
  ASSERT_THAT(ApplyLayout(4, 2), IsOk());
  v1::GetShardPlanRequest request;
  request.set_job("job");
  request.set_rank(1);
  request.mutable_shape()->set_seq_length(8);
  request.mutable_shape()->set_micro_batch_size(1);
  v1::ShardPlan plan;
  ASSERT_TRUE(plans_->GetShardPlan(Context().get(), request, &plan).ok());
  EXPECT_EQ(plan.generation(), 1);
  EXPECT_EQ(plan.embeddings().destination_rows(), 4);
  request.set_generation(2);
  EXPECT_THAT(
      FromGrpcStatus(plans_->GetShardPlan(Context().get(), request, &plan)),
      HasReason("STALE_GENERATION"));
}

TEST_F(ServerTest, RoutesCarryTheGenerationAndRefuseAnOldOne) {
  ASSERT_THAT(ApplyLayout(4, 2), IsOk());
  v1::GetRoutePlanRequest request;
  request.set_job("job");
  request.set_rank(1);
  request.set_generation(1);
  v1::Batch& batch = *request.mutable_batch();
  batch.set_seq_length(2);
  batch.set_micro_batch_size(1);
  for (int sample = 0; sample < 2; ++sample) {
    v1::Sample& tokens = *batch.add_samples();
    tokens.add_input_ids(7);
    tokens.add_input_ids(8);
  }
  v1::RoutePlan plan;
  const grpc::Status served =
      plans_->GetRoutePlan(Context().get(), request, &plan);
  ASSERT_TRUE(served.ok()) << served.error_message();
  EXPECT_EQ(plan.generation(), 1);
  EXPECT_NE(plan.digest(), 0);
  EXPECT_EQ(plan.placement().destination_rows(), 1);
  (*batch.mutable_counts())["text"] = 5;
  EXPECT_THAT(
      FromGrpcStatus(plans_->GetRoutePlan(Context().get(), request, &plan)),
      HasReason("INVALID_BATCH"));
  request.set_generation(2);
  EXPECT_THAT(
      FromGrpcStatus(plans_->GetRoutePlan(Context().get(), request, &plan)),
      HasReason("STALE_GENERATION"));
}

TEST_F(ServerTest, TwoMembersFormACommunicator) {
  ASSERT_THAT(ApplyLayout(2, 2), IsOk());
  ASSERT_THAT(Register(0), IsOk());
  ASSERT_THAT(Register(1), IsOk());
  auto other = std::async(std::launch::async, [&] { return FormAsMember(1); });
  EXPECT_THAT(FormAsMember(0), IsOk());
  EXPECT_THAT(other.get(), IsOk());
}

TEST_F(ServerTest, AWaitingMemberIsToldAndItsDeadlineNamesTheMissing) {
  ASSERT_THAT(ApplyLayout(4, 4), IsOk());
  ASSERT_THAT(Register(2), IsOk());
  auto context = Context();
  const auto stream =
      communicators_->FormCommunicators(context.get(), FormRequest(2, 2));
  v1::FormCommunicatorsResponse event;
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_EQ(event.waiting().missing().ranges(), "0-1,3");
  while (stream->Read(&event)) {
  }
  const absl::Status status = FromGrpcStatus(stream->Finish());
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(status, HasReason("MEMBERS_MISSING"));
  EXPECT_EQ(DetailOf(status).missing().ranges(), "0-1,3");
}

TEST_F(ServerTest, AClientThatGoesAwayIsNoLongerPresent) {
  ASSERT_THAT(ApplyLayout(2, 2), IsOk());
  ASSERT_THAT(Register(0), IsOk());
  ASSERT_THAT(Register(1), IsOk());
  auto gone = Context();
  auto gone_stream =
      communicators_->FormCommunicators(gone.get(), FormRequest(0, 20));
  auto context = Context();
  const auto stream =
      communicators_->FormCommunicators(context.get(), FormRequest(1, 20));
  v1::FormCommunicatorsResponse event;
  while (stream->Read(&event) && !event.has_go()) {
  }
  gone->TryCancel();
  while (stream->Read(&event) && !event.has_aborted()) {
  }
  EXPECT_EQ(event.aborted().reason(), "PEER_LOST");
  gone_stream->Finish();
  context->TryCancel();
  stream->Finish();
}

TEST_F(ServerTest, ASessionIsAnsweredAndBringsNews) {
  ASSERT_THAT(ApplyLayout(2, 2), IsOk());
  ASSERT_THAT(Register(0), IsOk());
  ASSERT_THAT(Register(1), IsOk());
  grpc::ClientContext context;
  const auto session = membership_->Session(&context);
  v1::SessionRequest request;
  *request.mutable_caller() = CallerOf(0);
  v1::SessionResponse response;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(session->Write(request));
    ASSERT_TRUE(session->Read(&response));
    EXPECT_EQ(response.generation(), 1);
  }
  v1::LeaveRequest leave;
  *leave.mutable_caller() = CallerOf(1);
  v1::LeaveResponse left;
  ASSERT_TRUE(membership_->Leave(Context().get(), leave, &left).ok());
  ASSERT_TRUE(session->Read(&response));
  ASSERT_THAT(response.lost_members(), SizeIs(1));
  EXPECT_EQ(response.lost_members(0).member().rank(), 1);
  session->WritesDone();
  EXPECT_FALSE(session->Read(&response));
  EXPECT_TRUE(session->Finish().ok());
}

TEST_F(ServerTest, ASessionOfAStrangerEndsWithItsReason) {
  ASSERT_THAT(ApplyLayout(2, 2), IsOk());
  auto context = Context();
  const auto session = membership_->Session(context.get());
  v1::SessionRequest request;
  *request.mutable_caller() = CallerOf(0);
  ASSERT_TRUE(session->Write(request));
  v1::SessionResponse response;
  EXPECT_FALSE(session->Read(&response));
  EXPECT_THAT(FromGrpcStatus(session->Finish()), HasReason("NOT_REGISTERED"));
}

TEST_F(ServerTest, ASessionThatWasReplacedCannotComeBackByWriting) {
  ASSERT_THAT(ApplyLayout(2, 2), IsOk());
  ASSERT_THAT(Register(0), IsOk());
  v1::SessionRequest request;
  *request.mutable_caller() = CallerOf(0);
  v1::SessionResponse response;
  auto old_context = Context(), new_context = Context();
  const auto old_session = membership_->Session(old_context.get());
  ASSERT_TRUE(old_session->Write(request));
  ASSERT_TRUE(old_session->Read(&response));
  const auto new_session = membership_->Session(new_context.get());
  ASSERT_TRUE(new_session->Write(request));
  ASSERT_TRUE(new_session->Read(&response));
  while (old_session->Write(request)) {
  }
  EXPECT_THAT(FromGrpcStatus(old_session->Finish()), HasReason("REPLACED"));
  ASSERT_TRUE(new_session->Write(request));
  EXPECT_TRUE(new_session->Read(&response));
  new_session->WritesDone();
  EXPECT_TRUE(new_session->Finish().ok());
}

TEST_F(ServerTest, AClientThatDoesNotReadIsCutOff) {
  const auto log = std::make_shared<spdlog::sinks::ringbuffer_sink_mt>(100);
  spdlog::default_logger()->sinks().push_back(log);
  ASSERT_THAT(ApplyLayout(2, 2), IsOk());
  ASSERT_THAT(Register(0), IsOk());
  // Else the transport takes in more and more for a fast connection.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 16);
  const auto stub = v1::MembershipService::NewStub(grpc::CreateCustomChannel(
      server_->address(), grpc::InsecureChannelCredentials(), arguments));
  v1::SessionRequest request;
  *request.mutable_caller() = CallerOf(0);
  auto context = Context();
  const auto session = stub->Session(context.get());
  // More than the transport and the queue can hold together.
  constexpr int kMessages = 30000;
  for (int i = 0; i < kMessages && session->Write(request); ++i) {
  }
  // A coordinator that lags behind would find that the client reads after all.
  const auto cut_off = [&log] {
    const std::vector<std::string> lines = log->last_formatted();
    return std::any_of(lines.begin(), lines.end(), [](const auto& line) {
      return absl::StrContains(line, "slow_reader");
    });
  };
  const absl::Time patience = absl::Now() + absl::FromChrono(kCallTimeout);
  while (!cut_off() && absl::Now() < patience) std::this_thread::yield();
  int read_count = 0;
  v1::SessionResponse response;
  while (session->Read(&response)) ++read_count;
  EXPECT_THAT(FromGrpcStatus(session->Finish()), HasReason("SLOW_READER"));
  EXPECT_LT(read_count, kMessages);
}

int ThreadCount() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (absl::StartsWith(line, "Threads:")) return std::stoi(line.substr(8));
  }
  return -1;
}

// Waits at a barrier on the client's callback API: no thread there either.
class BarrierWait final
    : public grpc::ClientReadReactor<v1::WaitAtBarrierResponse> {
 public:
  BarrierWait(v1::BarrierService::Stub& stub, v1::WaitAtBarrierRequest request)
      : request_(std::move(request)) {
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::minutes(2));
    stub.async()->WaitAtBarrier(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (ok) StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override { done_.set_value(status); }
  grpc::Status Get() { return done_.get_future().get(); }

 private:
  grpc::ClientContext context_;
  v1::WaitAtBarrierRequest request_;
  v1::WaitAtBarrierResponse response_;
  std::promise<grpc::Status> done_;
};

TEST_F(ServerTest, ThreeHundredParkedCallsCostNoThreads) {
  constexpr int kMembers = 300;
  ASSERT_THAT(ApplyLayout(kMembers, 1), IsOk());
  for (int rank = 0; rank < kMembers; ++rank) {
    ASSERT_THAT(Register(rank), IsOk());
  }
  std::vector<std::unique_ptr<BarrierWait>> waits;
  for (int rank = 0; rank < kMembers; ++rank) {
    v1::WaitAtBarrierRequest request;
    *request.mutable_caller() = CallerOf(rank);
    request.set_name("step");
    request.mutable_timeout()->set_seconds(60);
    if (rank + 1 == kMembers) {
      EXPECT_LT(ThreadCount(), 100);
    }
    waits.push_back(std::make_unique<BarrierWait>(*barriers_, request));
  }
  for (const auto& wait : waits) EXPECT_TRUE(wait->Get().ok());
}

TEST_F(ServerTest, ShutdownEndsParkedCallsWithAReason) {
  ASSERT_THAT(ApplyLayout(2, 2), IsOk());
  ASSERT_THAT(Register(0), IsOk());
  auto context = Context();
  const auto stream =
      communicators_->FormCommunicators(context.get(), FormRequest(0, 20));
  v1::FormCommunicatorsResponse event;
  ASSERT_TRUE(stream->Read(&event));
  auto session_context = Context();
  const auto session = membership_->Session(session_context.get());
  v1::SessionRequest request;
  *request.mutable_caller() = CallerOf(0);
  v1::SessionResponse response;
  ASSERT_TRUE(session->Write(request));
  ASSERT_TRUE(session->Read(&response));

  server_->Shutdown();
  while (stream->Read(&event)) {
  }
  const absl::Status status = FromGrpcStatus(stream->Finish());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status, HasReason("DRAINING"));
  EXPECT_FALSE(session->Read(&response));
  EXPECT_THAT(FromGrpcStatus(session->Finish()), HasReason("DRAINING"));
}

}  // namespace
}  // namespace shardwright
