#include "worker/rpc/server.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

// Tables are small; 64 inline tensors of the largest size fit.
constexpr int kMessageBytesMax = 64 << 20;

// Clients ping each 20 s; gRPC's own limit of five minutes would cut them off.
constexpr int kClientPingPeriodMinMs = 10000;

// How soon a trainer is found dead that vanished without a word.
constexpr int kPingPeriodMs = 20000;
constexpr int kPingTimeoutMs = 10000;

constexpr std::chrono::seconds kShutdownTimeout(2);

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(
    const std::string& listen, WorkerService& service) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port);
  // Else a second worker on the same port would get half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kPingPeriodMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
      kClientPingPeriodMinMs);
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  builder.RegisterService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return Error(absl::StatusCode::kUnavailable, "LISTEN_FAILED",
                 absl::StrCat("cannot listen on ", listen,
                              ": it is in use, or no address of this machine"),
                 {{"listen", listen}});
  }
  return std::unique_ptr<WorkerServer>(new WorkerServer(
      std::move(server),
      absl::StrCat(listen.substr(0, listen.rfind(':')), ":", port)));
}

WorkerServer::~WorkerServer() {
  server_->GetHealthCheckService()->SetServingStatus(false);
  server_->Shutdown(std::chrono::system_clock::now() + kShutdownTimeout);
  server_->Wait();
}

}  // namespace shardwright
