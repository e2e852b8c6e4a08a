// Addresses as people type them on a command line.

#ifndef PROTO_OPTION_ADDRESS_H_
#define PROTO_OPTION_ADDRESS_H_

#include <string>

namespace shardwright {

// What is wrong with `text` as an address to call: that it has no port, of
// which gRPC would say no more than that port 0 cannot be reached. Or nothing;
// all else is gRPC's to judge. As a validator of CLI11 is.
std::string CheckHasPort(const std::string& text);

}  // namespace shardwright

#endif  // PROTO_OPTION_ADDRESS_H_
