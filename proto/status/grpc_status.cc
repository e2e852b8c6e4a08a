#include "proto/status/grpc_status.h"

#include <string>

#include "proto/status/error.h"

namespace shardwright {
namespace {

// A message travels in the same headers as the details, and gRPC bounds both
// together.
constexpr size_t kMessageBytesMax = 2048;

// As much of a message as fits when gRPC has escaped it: what is not printable
// ASCII takes three bytes.
std::string FitMessage(absl::string_view message) {
  size_t encoded = 0, size = 0;
  for (; size < message.size(); ++size) {
    const char c = message[size];
    encoded += c >= ' ' && c <= '~' && c != '%' ? 1 : 3;
    if (encoded > kMessageBytesMax) break;
  }
  return CutText(message, size);
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  v1::ErrorDetail detail = DetailOf(status);
  if (detail.reason().empty()) {
    detail.set_reason("UNSPECIFIED");
    detail.set_domain("shardwright");
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      FitMessage(status.message()), detail.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  v1::ErrorDetail detail;
  if (status.error_details().empty() ||
      !detail.ParseFromString(status.error_details())) {
    return absl::Status(code, status.error_message());
  }
  return Error(code, status.error_message(), detail);
}

}  // namespace shardwright
