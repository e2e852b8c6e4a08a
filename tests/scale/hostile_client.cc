#include "tests/scale/hostile_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/dynamic_message.h"
#include "google/protobuf/unknown_field_set.h"
#include "proto/status/error.h"
#include "proto/status/grpc_status.h"

namespace shardwright {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

// No call may outlive this once it was cancelled.
constexpr std::chrono::seconds kPatience(120);

// Parked calls are left after that long; whoever refuses does so at once.
constexpr std::chrono::milliseconds kStay(200);

// Of calls whose request is what harms: a server looks at no request of a call
// without a deadline.
constexpr std::chrono::seconds kDeadline(30);

constexpr int kUnknownFields = 1000000;
constexpr int kDepthMax = 4;
constexpr int kRepeats = 40;

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string PathOf(const MethodDescriptor& method) {
  return "/" + method.service()->full_name() + "/" + method.name();
}

// Counts calls that have not ended.
class Pending {
 public:
  void Start() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++count_;
  }
  void End() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--count_ == 0) changed_.notify_all();
  }
  bool WaitFor(std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return count_ == 0; });
  }

 private:
  std::mutex mutex_;  // Guards all that follows.
  std::condition_variable changed_;
  int count_ = 0;
};

// Any call of any method: one message at most, and nothing is read.
class RawCall final
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit RawCall(Pending& pending) : pending_(pending) { pending_.Start(); }

  grpc::ClientContext& context() { return context_; }

  void Begin(grpc::GenericStub& stub, const std::string& path,
             const grpc::ByteBuffer* request, bool half_close) {
    stub.PrepareBidiStreamingCall(&context_, path, grpc::StubOptions(), this);
    if (request != nullptr) {
      request_ = *request;
      if (half_close) {
        StartWriteLast(&request_, grpc::WriteOptions());
      } else {
        StartWrite(&request_);
      }
    }
    StartCall();
  }

  void OnDone(const grpc::Status& status) override {
    end_ = FromGrpcStatus(status);
    pending_.End();
  }

  // How it ended, when it has.
  const absl::Status& end() const { return end_; }

 private:
  Pending& pending_;
  absl::Status end_;
  grpc::ClientContext context_;
  grpc::ByteBuffer request_;
};

// Ends what is still parked, and waits until nothing is left.
void Leave(Pending& pending, std::vector<std::unique_ptr<RawCall>>& calls) {
  if (!pending.WaitFor(kStay)) {
    for (const std::unique_ptr<RawCall>& call : calls) {
      call->context().TryCancel();
    }
  }
  if (pending.WaitFor(kPatience)) return;
  std::fprintf(stderr, "a call that was cancelled has not ended\n");
  std::abort();
}

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                   arguments);
}

}  // namespace

HostileClient::HostileClient(std::string address, const Services& services,
                             std::string job, uint32_t seed)
    : address_(std::move(address)),
      job_(std::move(job)),
      channel_(NewChannel(address_)),
      random_(seed) {
  for (const google::protobuf::ServiceDescriptor* service : services) {
    for (int i = 0; i < service->method_count(); ++i) {
      methods_.push_back(service->method(i));
    }
  }
}

std::string HostileClient::RandomBytes(size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random_());
  return bytes;
}

void HostileClient::CallAll(
    const std::function<
        grpc::ByteBuffer(const google::protobuf::Descriptor& input)>& make,
    const std::function<void(grpc::ClientContext&)>& prepare) {
  grpc::GenericStub stub(channel_);
  Pending pending;
  std::vector<std::unique_ptr<RawCall>> calls;
  for (const MethodDescriptor* method : methods_) {
    const grpc::ByteBuffer request = make(*method->input_type());
    calls.push_back(std::make_unique<RawCall>(pending));
    prepare(calls.back()->context());
    calls.back()->Begin(stub, PathOf(*method), &request, /*half_close=*/true);
  }
  Leave(pending, calls);
  for (size_t i = 0; i < methods_.size(); ++i) {
    const std::string reason = ReasonOf(calls[i]->end());
    ends_[methods_[i]->name()].insert(
        reason.empty() ? absl::StatusCodeToString(calls[i]->end().code())
                       : reason);
  }
}

void HostileClient::CallAllInTime(
    const std::function<
        grpc::ByteBuffer(const google::protobuf::Descriptor& input)>& make) {
  CallAll(make, [](grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  });
}

void HostileClient::SendRandomBytes() {
  for (const size_t size : {1, 7, 100, 4000, 1 << 20}) {
    CallAllInTime([&](const auto&) { return ToBuffer(RandomBytes(size)); });
  }
}

void HostileClient::FillHostile(Message& message, int depth) {
  if (stolen_ != nullptr &&
      message.GetDescriptor() == stolen_->GetDescriptor()) {
    message.CopyFrom(*stolen_);
    return;
  }
  static constexpr int64_t kNumbers[] = {
      0,
      -1,
      std::numeric_limits<int64_t>::min(),
      std::numeric_limits<int64_t>::max(),
      int64_t{1} << 40,
      std::numeric_limits<int32_t>::min(),
      std::numeric_limits<int32_t>::max(),
  };
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* field = type.field(i);
    const int64_t number = kNumbers[random_() % std::size(kNumbers)];
    const bool repeated = field->is_repeated();
    for (int k = 0; k < (repeated ? kRepeats : 1); ++k) {
      switch (field->cpp_type()) {
        case FieldDescriptor::CPPTYPE_MESSAGE:
          if (depth == kDepthMax) break;
          FillHostile(repeated ? *reflection.AddMessage(&message, field)
                               : *reflection.MutableMessage(&message, field),
                      depth + 1);
          break;
        case FieldDescriptor::CPPTYPE_STRING: {
          const std::string text = field->name() == "job"
                                       ? job_
                                       : std::string(random_() % 4096, 'x');
          repeated ? reflection.AddString(&message, field, text)
                   : reflection.SetString(&message, field, text);
          break;
        }
        case FieldDescriptor::CPPTYPE_INT64:
          repeated ? reflection.AddInt64(&message, field, number)
                   : reflection.SetInt64(&message, field, number);
          break;
        case FieldDescriptor::CPPTYPE_INT32:
          if (!repeated) {
            reflection.SetInt32(&message, field, static_cast<int32_t>(number));
          }
          break;
        case FieldDescriptor::CPPTYPE_UINT64:
          if (!repeated) {
            reflection.SetUInt64(&message, field,
                                 static_cast<uint64_t>(number));
          }
          break;
        case FieldDescriptor::CPPTYPE_ENUM:
          if (!repeated)
            reflection.SetEnumValue(&message, field, random_() % 9);
          break;
        case FieldDescriptor::CPPTYPE_BOOL:
          if (!repeated) reflection.SetBool(&message, field, random_() % 2);
          break;
        default:
          break;
      }
    }
  }
}

void HostileClient::SendHostileValues(const Message* stolen) {
  stolen_ = stolen;
  google::protobuf::MessageFactory& factory =
      *google::protobuf::MessageFactory::generated_factory();
  for (int round = 0; round < 5; ++round) {
    CallAllInTime([&](const google::protobuf::Descriptor& input) {
      const std::unique_ptr<Message> message(
          factory.GetPrototype(&input)->New());
      FillHostile(*message, 0);
      return ToBuffer(message->SerializeAsString());
    });
  }
  stolen_ = nullptr;
}

void HostileClient::SendUnknownFields() {
  google::protobuf::UnknownFieldSet fields;
  for (int i = 0; i < kUnknownFields; ++i) fields.AddVarint(999, 1);
  std::string bytes;
  fields.SerializeToString(&bytes);
  CallAllInTime([&](const auto&) { return ToBuffer(bytes); });
}

void HostileClient::SendGiantMetadata() {
  CallAll([&](const auto&) { return ToBuffer(""); },
          [](grpc::ClientContext& context) {
            context.AddMetadata("x-large", std::string(64 << 10, 'x'));
          });
}

void HostileClient::SendOddDeadlines() {
  const Deadline now = std::chrono::system_clock::now();
  for (const Deadline deadline :
       {now, now + std::chrono::hours(24 * 365), Deadline::max()}) {
    CallAll(
        [&](const auto&) { return ToBuffer(""); },
        [&](grpc::ClientContext& context) { context.set_deadline(deadline); });
  }
}

void HostileClient::OpenAndLeave(const std::string& method, int count,
                                 const Message* first) {
  const std::shared_ptr<grpc::Channel> channel = NewChannel(address_);
  grpc::GenericStub stub(channel);
  const grpc::ByteBuffer request =
      ToBuffer(first == nullptr ? "" : first->SerializeAsString());
  Pending pending;
  std::vector<std::unique_ptr<RawCall>> calls;
  for (int i = 0; i < count; ++i) {
    calls.push_back(std::make_unique<RawCall>(pending));
    calls.back()->Begin(stub, method, first == nullptr ? nullptr : &request,
                        /*half_close=*/false);
  }
  Leave(pending, calls);
}

void HostileClient::SendGarbage() {
  const size_t colon = address_.rfind(':');
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port =
      htons(static_cast<uint16_t>(std::atoi(address_.c_str() + colon + 1)));
  inet_pton(AF_INET, address_.substr(0, colon).c_str(), &to.sin_addr);
  const std::string kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  const std::string kGarbage[] = {
      "",
      "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
      kPreface,
      kPreface + RandomBytes(4096),
      RandomBytes(100000),
      std::string("\x16\x03\x01\x02\x00\x01", 6),  // The start of TLS.
  };
  for (int i = 0; i < 20; ++i) {
    for (const std::string& bytes : kGarbage) {
      const int connection = socket(AF_INET, SOCK_STREAM, 0);
      if (connect(connection, reinterpret_cast<sockaddr*>(&to), sizeof(to)) ==
          0) {
        (void)!send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      }
      close(connection);
    }
  }
}

}  // namespace shardwright
