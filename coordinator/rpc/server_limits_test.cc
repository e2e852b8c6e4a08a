// What a client cannot do to a server, over real gRPC: call without a deadline,
// be left without a reason, or open sessions and say nothing.

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/rpc/server.h"
#include "coordinator/rpc/stream_call.h"
#include "coordinator/storage/memory_state_store.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/empty.pb.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "gtest/gtest.h"
#include "proto/status/grpc_status.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::SizeIs;

// Of an instrumented server on a busy machine, too.
constexpr std::chrono::seconds kCallTimeout(120);

class ServerLimitsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CoordinatorCore::Options options;
    options.lease_ttl = absl::FromChrono(kCallTimeout);  // None is at issue.
    auto core = CoordinatorCore::Start(store_, options, absl::Now());
    ASSERT_THAT(core, IsOk());
    loop_ = std::make_unique<CoreLoop>(*std::move(core), [this] {
      static const absl::Time start = absl::Now();
      static const auto steady = std::chrono::steady_clock::now();
      return start + absl::Seconds(skipped_seconds_.load()) +
             absl::FromChrono(std::chrono::steady_clock::now() - steady);
    });
    auto server = CoordinatorServer::Start("127.0.0.1:0", *loop_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->address(),
                                   grpc::InsecureChannelCredentials());
    layouts_ = v1::LayoutService::NewStub(channel_);
    membership_ = v1::MembershipService::NewStub(channel_);
    barriers_ = v1::BarrierService::NewStub(channel_);
    communicators_ = v1::CommunicatorService::NewStub(channel_);
    diagnostics_ = v1::DiagnosticsService::NewStub(channel_);
  }

  static std::unique_ptr<grpc::ClientContext> Context() {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() + kCallTimeout);
    return context;
  }

  // Calls any unary method, with an empty request.
  absl::Status Call(const std::string& path, grpc::ClientContext* context) {
    const grpc::internal::RpcMethod method(
        path.c_str(), grpc::internal::RpcMethod::NORMAL_RPC, channel_);
    const google::protobuf::Empty request;
    google::protobuf::Empty response;
    return FromGrpcStatus(
        grpc::internal::BlockingUnaryCall<
            google::protobuf::Empty, google::protobuf::Empty,
            google::protobuf::MessageLite, google::protobuf::MessageLite>(
            channel_.get(), method, context, request, &response));
  }

  // A layout whose ranks are listed one by one, from `first` on.
  absl::Status ApplyListed(int64_t world_size, int64_t first,
                           const std::string& job = "job") {
    v1::ApplyLayoutRequest request;
    v1::Layout& layout = *request.mutable_layout();
    layout.set_name(job);
    layout.set_world_size(world_size);
    v1::Module& module = *layout.add_modules();
    module.set_name("language");
    module.set_role(v1::LANGUAGE);
    for (int64_t i = 0; i < world_size; ++i) {
      module.add_ranks((first + i) % world_size);
    }
    v1::ApplyLayoutResponse response;
    return FromGrpcStatus(
        layouts_->ApplyLayout(Context().get(), request, &response));
  }
  v1::Caller Register(int64_t rank) {
    v1::RegisterRequest request;
    request.mutable_member()->set_job("job");
    request.mutable_member()->set_rank(rank);
    request.mutable_member()->set_kind(v1::WORKER);
    request.set_incarnation(1 + rank);
    v1::RegisterResponse response;
    EXPECT_THAT(FromGrpcStatus(
                    membership_->Register(Context().get(), request, &response)),
                IsOk());
    v1::Caller caller;
    *caller.mutable_member() = request.member();
    caller.set_incarnation(1 + rank);
    caller.set_generation(response.generation());
    return caller;
  }
  static v1::WaitAtBarrierRequest WaitRequest(const v1::Caller& caller,
                                              int64_t seconds = 2) {
    v1::WaitAtBarrierRequest request;
    *request.mutable_caller() = caller;
    request.set_name("step");
    request.mutable_timeout()->set_seconds(seconds);
    return request;
  }
  template <typename Stream>
  static absl::Status ReadToEnd(Stream& stream) {
    v1::WaitAtBarrierResponse response;
    while (stream.Read(&response)) {
    }
    return FromGrpcStatus(stream.Finish());
  }

  MemoryStateStore store_;
  std::atomic<int> skipped_seconds_{0};
  std::unique_ptr<CoreLoop> loop_;
  std::unique_ptr<CoordinatorServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::LayoutService::Stub> layouts_;
  std::unique_ptr<v1::MembershipService::Stub> membership_;
  std::unique_ptr<v1::BarrierService::Stub> barriers_;
  std::unique_ptr<v1::CommunicatorService::Stub> communicators_;
  std::unique_ptr<v1::DiagnosticsService::Stub> diagnostics_;
};

TEST_F(ServerLimitsTest, NoUnaryMethodServesACallWithoutADeadline) {
  int method_count = 0;
  for (const google::protobuf::Descriptor* message :
       {v1::GetLayoutRequest::descriptor(), v1::RegisterRequest::descriptor(),
        v1::FormCommunicatorsRequest::descriptor(),
        v1::WaitAtBarrierRequest::descriptor(),
        v1::GetShardPlanRequest::descriptor(),
        v1::ListEventsRequest::descriptor()}) {
    const google::protobuf::ServiceDescriptor& service =
        *message->file()->service(0);
    for (int i = 0; i < service.method_count(); ++i) {
      const google::protobuf::MethodDescriptor& method = *service.method(i);
      if (method.server_streaming()) continue;
      grpc::ClientContext context;
      EXPECT_THAT(
          Call(absl::StrCat("/", service.full_name(), "/", method.name()),
               &context),
          HasReason("DEADLINE_REQUIRED"))
          << method.full_name();
      ++method_count;
    }
  }
  EXPECT_GE(method_count, 15);
}

TEST_F(ServerLimitsTest, NoWaitIsParkedWithoutADeadline) {
  ASSERT_THAT(ApplyListed(2, 0), IsOk());
  const v1::Caller caller = Register(0);
  grpc::ClientContext form_context, wait_context;
  v1::FormCommunicatorsRequest form;
  *form.mutable_caller() = caller;
  const auto forming = communicators_->FormCommunicators(&form_context, form);
  EXPECT_THAT(FromGrpcStatus(forming->Finish()),
              HasReason("DEADLINE_REQUIRED"));
  const auto waiting =
      barriers_->WaitAtBarrier(&wait_context, WaitRequest(caller));
  EXPECT_THAT(ReadToEnd(*waiting), HasReason("DEADLINE_REQUIRED"));
}

TEST_F(ServerLimitsTest, MethodsThatDoNotExistHaveAReasonToo) {
  for (const char* path :
       {"/shardwright.v1.LayoutService/Forget",
        "/shardwright.v1.WorkerService/RunCopies", "/elsewhere.Service/Call"}) {
    const absl::Status status = Call(path, Context().get());
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << path;
    EXPECT_THAT(status, HasReason("METHOD_NOT_FOUND")) << path;
  }
}

TEST_F(ServerLimitsTest, ErrorsSurviveWhateverAClientPutsIntoThem) {
  ASSERT_THAT(ApplyListed(2, 0), IsOk());
  const v1::Caller callers[] = {Register(0), Register(1)};
  for (const char* text : {"%", "\n", "\u00e9", "x"}) {
    std::string huge;
    while (huge.size() < 1 << 20) huge += text;
    v1::GetLayoutRequest get;
    get.set_job(huge);
    v1::GetLayoutResponse layout;
    const absl::Status not_found =
        FromGrpcStatus(layouts_->GetLayout(Context().get(), get, &layout));
    EXPECT_EQ(not_found.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(not_found, HasReason("JOB_NOT_FOUND"));

    auto context = Context(), other_context = Context();
    const auto waiting = barriers_->WaitAtBarrier(
        context.get(), WaitRequest(callers[0], kCallTimeout.count()));
    v1::WaitAtBarrierResponse progress;
    ASSERT_TRUE(waiting->Read(&progress));
    v1::WaitAtBarrierRequest request = WaitRequest(callers[1]);
    request.set_scope(huge);
    const auto other = barriers_->WaitAtBarrier(other_context.get(), request);
    EXPECT_THAT(ReadToEnd(*other), HasReason("BARRIER_MISMATCH"));
    const absl::Status mismatch = ReadToEnd(*waiting);
    EXPECT_EQ(mismatch.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(mismatch, HasReason("BARRIER_MISMATCH"));
    EXPECT_EQ(DetailOf(mismatch).metadata().at("digest"), "0000000000000000");
  }
}

TEST_F(ServerLimitsTest, AWatcherGetsEachLayoutAndResumesByRevision) {
  ASSERT_THAT(ApplyListed(2, 0), IsOk());
  grpc::ClientContext context;  // Long-lived: it needs no deadline.
  const auto watch = layouts_->WatchLayouts(&context, {});
  v1::WatchLayoutsResponse event;
  ASSERT_TRUE(watch->Read(&event));
  EXPECT_EQ(event.layout().generation(), 1);
  ASSERT_THAT(ApplyListed(2, 1), IsOk());
  ASSERT_TRUE(watch->Read(&event));
  EXPECT_EQ(event.layout().generation(), 2);
  context.TryCancel();
  watch->Finish();

  ASSERT_THAT(ApplyListed(3, 0), IsOk());
  ASSERT_THAT(ApplyListed(4, 0), IsOk());
  v1::WatchLayoutsRequest resume;
  resume.set_revision(event.layout().revision());
  grpc::ClientContext resumed_context;
  const auto resumed = layouts_->WatchLayouts(&resumed_context, resume);
  ASSERT_TRUE(resumed->Read(&event));
  EXPECT_EQ(event.layout().generation(), 4);
  server_->Shutdown();
  EXPECT_FALSE(resumed->Read(&event));
  EXPECT_THAT(FromGrpcStatus(resumed->Finish()), HasReason("DRAINING"));
}

TEST_F(ServerLimitsTest, AWatcherGetsMoreLayoutsThanItsQueueHolds) {
  constexpr int kJobs = static_cast<int>(kQueuedMessagesMax) + 200;
  for (int i = 0; i < kJobs; ++i) {
    ASSERT_THAT(ApplyListed(2, 0, absl::StrCat("job-", i)), IsOk());
  }
  auto context = Context();
  const auto watch = layouts_->WatchLayouts(context.get(), {});
  v1::WatchLayoutsResponse event;
  int64_t revision = 0;
  for (int i = 0; i < kJobs; ++i) {
    ASSERT_TRUE(watch->Read(&event)) << i;
    EXPECT_GT(event.layout().revision(), revision);
    revision = event.layout().revision();
  }
  context->TryCancel();
}

TEST_F(ServerLimitsTest, ASessionThatSaysNothingIsEnded) {
  ASSERT_THAT(ApplyListed(2, 0), IsOk());
  grpc::ClientContext context;
  const auto session = membership_->Session(&context);
  auto read = std::async(std::launch::async, [&session] {
    v1::SessionResponse response;
    return session->Read(&response);
  });
  // Whatever the server does looks at the time first.
  while (read.wait_for(std::chrono::milliseconds(1)) !=
         std::future_status::ready) {
    skipped_seconds_ += 11;
    Register(0);
  }
  EXPECT_FALSE(read.get());
  EXPECT_THAT(FromGrpcStatus(session->Finish()), HasReason("SESSION_SILENT"));
}

TEST_F(ServerLimitsTest, TheReportOfAnErrorLeadsToEveryoneWhoIsMissing) {
  ASSERT_THAT(ApplyListed(3, 0), IsOk());
  auto context = Context();
  const auto waiting =
      barriers_->WaitAtBarrier(context.get(), WaitRequest(Register(1)));
  const v1::MemberSet missing = DetailOf(ReadToEnd(*waiting)).missing();
  v1::ListMissingMembersRequest request;
  request.set_report(missing.report());
  v1::ListMissingMembersResponse members;
  ASSERT_TRUE(
      diagnostics_->ListMissingMembers(Context().get(), request, &members)
          .ok());
  ASSERT_THAT(members.members(), SizeIs(2));
  EXPECT_EQ(members.members(1).member().rank(), 2);

  v1::ExplainCliqueRequest explain;
  explain.set_job("job");
  explain.set_clique("language/dp/0");
  v1::CliqueExplanation explanation;
  ASSERT_TRUE(
      diagnostics_->ExplainClique(Context().get(), explain, &explanation).ok());
  EXPECT_THAT(explanation.members(), SizeIs(3));
  v1::ListCommunicatorsRequest list;
  list.set_job("job");
  v1::ListCommunicatorsResponse cliques;
  EXPECT_TRUE(
      diagnostics_->ListCommunicators(Context().get(), list, &cliques).ok());
  v1::ListEventsRequest ask;
  ask.set_job("job");
  v1::ListEventsResponse events;
  ASSERT_TRUE(diagnostics_->ListEvents(Context().get(), ask, &events).ok());
  EXPECT_EQ(events.events(0).type(), "layout_applied");
}

}  // namespace
}  // namespace shardwright
