// A client that means harm: it sends a server whatever the wire can carry, and
// reads no answer, only how its calls end. Everything follows from the seed.
// Not thread-safe.

#ifndef TESTS_SCALE_HOSTILE_CLIENT_H_
#define TESTS_SCALE_HOSTILE_CLIENT_H_

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace shardwright {

class HostileClient {
 public:
  using Services = std::vector<const google::protobuf::ServiceDescriptor*>;

  // Means the server at `address`, the services that it has, and its job.
  HostileClient(std::string address, const Services& services, std::string job,
                uint32_t seed);

  // Each returns when all of its calls have ended. Dies if one does not.

  // Random bytes as the request of every method.
  void SendRandomBytes();

  // Well-formed requests of every method with values at the edge: of the real
  // job, but counts, sizes, ranks and numbers of every kind huge or negative,
  // lists long, durations that are none. With `stolen`, whatever is of its type
  // is a copy of it: with a member's v1.Caller, requests come from that member.
  void SendHostileValues(const google::protobuf::Message* stolen = nullptr);

  // A request of every method with a million fields that nobody knows.
  void SendUnknownFields();

  // A request of every method with metadata beyond gRPC's own bound.
  void SendGiantMetadata();

  // An empty request of every method with a deadline that has passed, one in a
  // year, and none.
  void SendOddDeadlines();

  // `count` calls of a stream at a time, with `first` as the first message if
  // there is one; nothing is read, and all are left.
  void OpenAndLeave(const std::string& method, int count,
                    const google::protobuf::Message* first);

  // What is not HTTP/2 at all, on connections of its own.
  void SendGarbage();

  // How calls of each method have ended, but for those that were only opened
  // and left: reasons, or names of codes where there was none. A call that was
  // not refused is CANCELLED, or OK.
  const std::map<std::string, std::set<std::string>>& ends() const {
    return ends_;
  }

 private:
  using Deadline = std::chrono::system_clock::time_point;

  // Calls every method with the request that `make` gives for its input.
  void CallAll(const std::function<grpc::ByteBuffer(
                   const google::protobuf::Descriptor& input)>& make,
               const std::function<void(grpc::ClientContext&)>& prepare);

  // The same by calls whose deadline lets the server look at the request.
  void CallAllInTime(const std::function<grpc::ByteBuffer(
                         const google::protobuf::Descriptor& input)>& make);

  void FillHostile(google::protobuf::Message& message, int depth);
  std::string RandomBytes(size_t size);

  const std::string address_;
  const std::string job_;
  std::vector<const google::protobuf::MethodDescriptor*> methods_;
  std::shared_ptr<grpc::Channel> channel_;
  std::mt19937 random_;
  const google::protobuf::Message* stolen_ = nullptr;
  std::map<std::string, std::set<std::string>> ends_;
};

}  // namespace shardwright

#endif  // TESTS_SCALE_HOSTILE_CLIENT_H_
