// What CoordinatorClient promises beyond passing messages on: retries, reasons,
// and streams that can be cut short. Against a scripted server on loopback.

#include "client/cc/coordinator_client.h"

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/ext/health_check_service_server_builder_option.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "proto/status/error.h"
#include "proto/status/grpc_status.h"
#include "proto/status/status_matchers.h"
#include "shardwright/v1/barrier.grpc.pb.h"
#include "shardwright/v1/layout.grpc.pb.h"
#include "shardwright/v1/membership.grpc.pb.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;

// Answers GetLayout with the statuses of a script, one a call, then with OK.
class ScriptedLayoutService : public v1::LayoutService::Service {
 public:
  std::vector<absl::Status> script;
  std::atomic<int> call_count{0};

  grpc::Status GetLayout(grpc::ServerContext*, const v1::GetLayoutRequest*,
                         v1::GetLayoutResponse* response) override {
    const int call = call_count++;
    if (call < script.size()) return ToGrpcStatus(script[call]);
    response->set_generation(7);
    return grpc::Status::OK;
  }
};

// Answers each barrier with one message and then waits for the client to go.
class ParkingBarrierService : public v1::BarrierService::Service {
 public:
  grpc::Status WaitAtBarrier(
      grpc::ServerContext* context, const v1::WaitAtBarrierRequest*,
      grpc::ServerWriter<v1::WaitAtBarrierResponse>* writer) override {
    v1::WaitAtBarrierResponse response;
    response.set_present_count(1);
    response.mutable_missing()->set_ranges("1-3");
    writer->Write(response);
    while (!context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::CANCELLED;
  }
};

// Echoes revisions, and fences the client at revision 2.
class FencingMembershipService : public v1::MembershipService::Service {
 public:
  grpc::Status Session(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::SessionResponse, v1::SessionRequest>* stream)
      override {
    for (v1::SessionRequest request; stream->Read(&request);) {
      if (request.revision() == 2) {
        return ToGrpcStatus(Error(absl::StatusCode::kAborted, "FENCED",
                                  "rank 5 was taken by pid 77"));
      }
      v1::SessionResponse response;
      response.set_revision(request.revision());
      stream->Write(response);
    }
    return grpc::Status::OK;
  }
};

class CoordinatorClientTest : public ::testing::Test {
 protected:
  CoordinatorClientTest() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(&layouts_);
    builder.RegisterService(&barriers_);
    builder.RegisterService(&members_);
    server_ = builder.BuildAndStart();
    target_ = "127.0.0.1:" + std::to_string(port);
  }
  ~CoordinatorClientTest() override { server_->Shutdown(); }

  CoordinatorClient Client(absl::Duration retry_timeout = absl::Seconds(30)) {
    CoordinatorClient::Options options;
    options.retry_timeout = retry_timeout;
    return CoordinatorClient::Create(target_, options);
  }

  static v1::WaitAtBarrierRequest BarrierRequest() {
    v1::WaitAtBarrierRequest request;
    request.mutable_timeout()->set_seconds(60);
    return request;
  }

  ScriptedLayoutService layouts_;
  ParkingBarrierService barriers_;
  FencingMembershipService members_;
  std::unique_ptr<grpc::Server> server_;
  std::string target_;
};

TEST_F(CoordinatorClientTest, RepeatsUnavailableUntilItSucceeds) {
  layouts_.script = {absl::UnavailableError("restarting"),
                     absl::UnavailableError("still restarting")};
  const auto layout = Client().GetLayout({});
  ASSERT_THAT(layout, IsOk());
  EXPECT_EQ(layout->generation(), 7);
  EXPECT_EQ(layouts_.call_count, 3);
}

TEST_F(CoordinatorClientTest, DoesNotRepeatWhenToldNotTo) {
  layouts_.script = {Error(absl::StatusCode::kUnavailable, "STORE_FAILED",
                           "the disk is full")};
  const auto layout = Client(absl::ZeroDuration()).GetLayout({});
  EXPECT_THAT(layout, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("the disk is full")));
  EXPECT_THAT(layout, HasReason("STORE_FAILED"));
  EXPECT_EQ(layouts_.call_count, 1);
}

TEST_F(CoordinatorClientTest, ComesAgainWhenAnOverloadedServerSaysSo) {
  v1::ErrorDetail detail;
  detail.set_reason("OVERLOADED");
  detail.mutable_retry_delay()->set_nanos(200'000'000);
  layouts_.script = {
      Error(absl::StatusCode::kResourceExhausted, "busy", detail)};
  const absl::Time begin = absl::Now();
  EXPECT_THAT(Client().GetLayout({}), IsOk());
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(200));
  EXPECT_EQ(layouts_.call_count, 2);
}

TEST_F(CoordinatorClientTest, DoesNotWaitLongerForAnOverloadedServerThanItMay) {
  v1::ErrorDetail detail;
  detail.set_reason("OVERLOADED");
  detail.mutable_retry_delay()->set_seconds(3600);
  layouts_.script = {
      Error(absl::StatusCode::kResourceExhausted, "busy", detail)};
  EXPECT_THAT(Client(absl::Seconds(5)).GetLayout({}), HasReason("OVERLOADED"));
  EXPECT_EQ(layouts_.call_count, 1);
}

TEST_F(CoordinatorClientTest, FailuresOfGrpcItselfGetAReason) {
  EXPECT_THAT(Client().ListLayouts({}), HasReason("CALL_FAILED"));
  CallCanceller canceller;
  canceller.Cancel();
  EXPECT_THAT(
      Client().WaitAtBarrier(
          BarrierRequest(),
          [](const v1::WaitAtBarrierResponse&) { return true; }, canceller),
      HasReason("CALL_CANCELLED"));
}

TEST_F(CoordinatorClientTest, RepeatsNothingElse) {
  layouts_.script = {Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND",
                           "no job vlm", {{"job", "vlm"}})};
  const auto layout = Client().GetLayout({});
  EXPECT_THAT(layout, StatusIs(absl::StatusCode::kNotFound, "no job vlm"));
  EXPECT_THAT(layout, HasReason("JOB_NOT_FOUND"));
  EXPECT_EQ(DetailOf(layout.status()).metadata().at("job"), "vlm");
  EXPECT_EQ(layouts_.call_count, 1);
}

TEST_F(CoordinatorClientTest, NamesTheServerThatCannotBeReached) {
  const CoordinatorClient client = Client(absl::ZeroDuration());
  server_->Shutdown();
  const auto layout = client.GetLayout({});
  EXPECT_THAT(layout,
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(target_)));
  EXPECT_THAT(layout, HasReason("UNREACHABLE"));
}

TEST_F(CoordinatorClientTest, LeavingWaitsForNoServerThatIsGone) {
  const CoordinatorClient client = Client(absl::Seconds(30));
  server_->Shutdown();
  const absl::Time begin = absl::Now();
  EXPECT_THAT(client.Leave({}), HasReason("UNREACHABLE"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
}

TEST_F(CoordinatorClientTest, ReturningFalseEndsAParkedStream) {
  int event_count = 0;
  const absl::Status status = Client().WaitAtBarrier(
      BarrierRequest(), [&](const v1::WaitAtBarrierResponse& response) {
        EXPECT_EQ(response.missing().ranges(), "1-3");
        ++event_count;
        return false;
      });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled, HasSubstr("")));
  EXPECT_EQ(event_count, 1);
}

TEST_F(CoordinatorClientTest, CancellerEndsAParkedStreamFromAnotherThread) {
  CallCanceller canceller;
  std::promise<void> parked;
  std::future<absl::Status> status = std::async(std::launch::async, [&] {
    return Client().WaitAtBarrier(
        BarrierRequest(),
        [&](const v1::WaitAtBarrierResponse&) {
          parked.set_value();
          return true;
        },
        canceller);
  });
  parked.get_future().wait();
  canceller.Cancel();
  EXPECT_THAT(status.get(),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("")));
}

TEST(CallCancellerTest, CancelsNoCallThatHasEnded) {
  for (int i = 0; i < 1000; ++i) {
    CallCanceller canceller;
    std::atomic<bool> ended = false;
    std::atomic<bool> late = false;
    canceller.OnCancel([&] {
      std::this_thread::yield();
      if (ended) late = true;
    });
    std::thread other([&] { canceller.Cancel(); });
    std::this_thread::yield();
    canceller.CallEnded();
    ended = true;
    other.join();
    ASSERT_FALSE(late) << "call " << i;
  }
}

TEST_F(CoordinatorClientTest, ACancelledCancellerEndsALaterStreamAtOnce) {
  CallCanceller canceller;
  canceller.Cancel();
  EXPECT_THAT(
      Client().WaitAtBarrier(
          BarrierRequest(),
          [](const v1::WaitAtBarrierResponse&) { return true; }, canceller),
      StatusIs(absl::StatusCode::kCancelled, HasSubstr("")));
}

TEST_F(CoordinatorClientTest, SessionCarriesMessagesAndTheReasonOfItsEnd) {
  const std::unique_ptr<SessionStream> session = Client().OpenSession();
  v1::SessionRequest request;
  v1::SessionResponse response;
  request.set_revision(1);
  ASSERT_TRUE(session->Write(request));
  ASSERT_TRUE(session->Read(&response));
  EXPECT_EQ(response.revision(), 1);

  request.set_revision(2);
  ASSERT_TRUE(session->Write(request));
  EXPECT_FALSE(session->Read(&response));
  EXPECT_THAT(session->Finish(), HasReason("FENCED"));
}

TEST_F(CoordinatorClientTest, SessionIsCancelledFromAnotherThread) {
  const std::unique_ptr<SessionStream> session = Client().OpenSession();
  std::future<bool> read = std::async(std::launch::async, [&] {
    v1::SessionResponse response;
    return session->Read(&response);
  });
  session->Cancel();
  EXPECT_FALSE(read.get());
  EXPECT_THAT(session->Finish(),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("")));
}

TEST_F(CoordinatorClientTest, HealthFollowsWhatTheServerSays) {
  EXPECT_THAT(Client().CheckHealth(), IsOk());
  server_->GetHealthCheckService()->SetServingStatus(false);
  EXPECT_THAT(Client().CheckHealth(), HasReason("NOT_SERVING"));
  server_->Shutdown();
  EXPECT_THAT(Client().CheckHealth(), HasReason("UNREACHABLE"));
}

}  // namespace
}  // namespace shardwright
