// The Connection over gRPC.

#ifndef CLIENT_CC_GRPC_CONNECTION_H_
#define CLIENT_CC_GRPC_CONNECTION_H_

#include <memory>
#include <string>

#include "client/cc/connection.h"

namespace shardwright {

// `target` is host:port. Connects when first used.
std::shared_ptr<Connection> MakeGrpcConnection(
    const std::string& target, CoordinatorClient::Options options);

}  // namespace shardwright

#endif  // CLIENT_CC_GRPC_CONNECTION_H_
