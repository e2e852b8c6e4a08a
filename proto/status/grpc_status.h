// The one place where absl::Status and grpc::Status meet.

#ifndef PROTO_STATUS_GRPC_STATUS_H_
#define PROTO_STATUS_GRPC_STATUS_H_

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace shardwright {

// Code, message and ErrorDetail go over unchanged, both ways. A failure without
// a reason gets "UNSPECIFIED", so that every failure on the wire has one.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace shardwright

#endif  // PROTO_STATUS_GRPC_STATUS_H_
