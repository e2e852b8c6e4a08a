#include "coordinator/rpc/server.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

// Clients ping each 20 s; gRPC's own limit of five minutes would cut them off.
constexpr int kClientPingPeriodMinMs = 10000;

// How soon a client is found dead that vanished without a word.
constexpr int kPingPeriodMs = 20000;
constexpr int kPingTimeoutMs = 10000;

constexpr std::chrono::seconds kShutdownTimeout(5);

}  // namespace

CoordinatorServer::CoordinatorServer(CoreLoop& loop)
    : loop_(loop),
      layout_service_(loop),
      membership_service_(loop),
      communicator_service_(loop),
      barrier_service_(loop),
      plan_service_(loop),
      diagnostics_service_(loop) {}

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    const std::string& listen, CoreLoop& loop) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::unique_ptr<CoordinatorServer> server(new CoordinatorServer(loop));
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port);
  // Else a second coordinator on the same port would get half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kPingPeriodMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
      kClientPingPeriodMinMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             kStreamsPerConnectionMax);
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  builder.RegisterService(&server->layout_service_);
  builder.RegisterService(&server->membership_service_);
  builder.RegisterService(&server->communicator_service_);
  builder.RegisterService(&server->barrier_service_);
  builder.RegisterService(&server->plan_service_);
  builder.RegisterService(&server->diagnostics_service_);
  builder.RegisterCallbackGenericService(&server->unknown_methods_);
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || port == 0) {
    return Error(absl::StatusCode::kUnavailable, "LISTEN_FAILED",
                 absl::StrCat("cannot listen on ", listen,
                              ": it is in use, or no address of this machine"),
                 {{"listen", listen}});
  }
  server->address_ =
      absl::StrCat(listen.substr(0, listen.rfind(':')), ":", port);
  return server;
}

CoordinatorServer::~CoordinatorServer() { Shutdown(); }

void CoordinatorServer::Shutdown() {
  if (server_ == nullptr) return;
  server_->GetHealthCheckService()->SetServingStatus(false);
  loop_.Drain();
  server_->Shutdown(std::chrono::system_clock::now() + kShutdownTimeout);
  server_->Wait();
}

}  // namespace shardwright
