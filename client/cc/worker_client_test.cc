#include "client/cc/worker_client.h"

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "proto/status/error.h"
#include "proto/status/grpc_status.h"
#include "proto/status/status_matchers.h"
#include "shardwright/v1/worker.grpc.pb.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;

// Holds sessions of one segment, refuses those of two; its calls fail.
class ScriptedWorkerService : public v1::WorkerService::Service {
 public:
  std::atomic<bool> drop_sessions{false};
  std::promise<void> session_gone;

  grpc::Status OpenSession(
      grpc::ServerContext* context, const v1::OpenSessionRequest* request,
      grpc::ServerWriter<v1::OpenSessionResponse>* writer) override {
    if (request->segments_size() == 2) {
      return ToGrpcStatus(Error(absl::StatusCode::kNotFound,
                                "SEGMENT_NOT_FOUND", "no segment /x"));
    }
    v1::OpenSessionResponse response;
    response.set_session_id("s1");
    writer->Write(response);
    while (!context->IsCancelled() && !drop_sessions) {
      std::this_thread::yield();
    }
    if (drop_sessions) return grpc::Status::OK;
    session_gone.set_value();
    return grpc::Status::CANCELLED;
  }

  grpc::Status RunCopies(grpc::ServerContext*, const v1::RunCopiesRequest*,
                         v1::RunCopiesResponse*) override {
    ++run_count;
    return ToGrpcStatus(absl::UnavailableError("going down"));
  }
  std::atomic<int> run_count{0};
};

class WorkerClientTest : public ::testing::Test {
 protected:
  WorkerClientTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(&worker_);
    server_ = builder.BuildAndStart();
    client_ = std::make_unique<WorkerClient>(
        WorkerClient::Create("127.0.0.1:" + std::to_string(port)));
  }
  ~WorkerClientTest() override { server_->Shutdown(); }

  ScriptedWorkerService worker_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<WorkerClient> client_;
};

TEST_F(WorkerClientTest, SessionLastsUntilItIsDestroyed) {
  auto session = client_->OpenSession({});
  ASSERT_THAT(session, IsOk());
  EXPECT_EQ((*session)->id(), "s1");
  EXPECT_THAT((*session)->status(), IsOk());
  session->reset();
  worker_.session_gone.get_future().wait();
}

TEST_F(WorkerClientTest, RefusedSessionSaysWhy) {
  v1::OpenSessionRequest request;
  request.add_segments();
  request.add_segments();
  EXPECT_THAT(client_->OpenSession(request), HasReason("SEGMENT_NOT_FOUND"));
}

TEST_F(WorkerClientTest, SessionThatTheWorkerEndsIsNotOk) {
  auto session = client_->OpenSession({});
  ASSERT_THAT(session, IsOk());
  worker_.drop_sessions = true;
  while ((*session)->status().ok()) std::this_thread::yield();
  EXPECT_THAT((*session)->status(), HasReason("SESSION_ENDED"));
}

TEST_F(WorkerClientTest, CallsThatMoveBytesAreNotRepeated) {
  EXPECT_THAT(client_->RunCopies({}), StatusIs(absl::StatusCode::kUnavailable,
                                               HasSubstr("going down")));
  EXPECT_EQ(worker_.run_count, 1);
}

}  // namespace
}  // namespace shardwright
