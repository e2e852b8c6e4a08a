// A parked call on gRPC's callback API: no thread of its own, one write at a
// time, a bounded queue of what is still to be written.

#ifndef COORDINATOR_RPC_STREAM_CALL_H_
#define COORDINATOR_RPC_STREAM_CALL_H_

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "coordinator/rpc/core_loop.h"
#include "grpcpp/support/server_callback.h"
#include "proto/status/error.h"
#include "proto/status/grpc_status.h"
#include "proto/sync/mutex.h"

namespace shardwright {

// What may wait for a client that does not read. A message that finds less than
// this is taken, however large it is.
inline constexpr size_t kQueuedMessagesMax = 1024;
inline constexpr size_t kQueuedBytesMax = 16 << 20;

// `Reactor` is grpc::ServerWriteReactor<Message> or a bidirectional one. The
// object owns itself from Park() until gRPC has done with it.
template <typename Reactor, typename Message>
class StreamCall : public Reactor, public ParkedCall {
 public:
  // Makes the call known to `loop`, which must outlive it, and returns it for
  // gRPC.
  template <typename Call>
  static Call* Park(std::shared_ptr<Call> call) {
    call->self_ = call;
    call->stream_ = call->loop_.Open(call);
    call->Pump();  // It may have been refused.
    return call.get();
  }

  StreamId stream() const { return stream_; }

  std::string Describe() const override {
    return absl::StrCat("stream=", stream_, " peer=", peer_,
                        " told=", Message::descriptor()->name());
  }

  bool Queue(const StreamEffect& effect) override {
    const MutexLock lock(mutex_);
    if (end_.has_value()) return true;
    if (const auto* status = std::get_if<absl::Status>(&effect.what)) {
      end_ = *status;
      return true;
    }
    if (queue_.size() < kQueuedMessagesMax && queued_bytes_ < kQueuedBytesMax) {
      queue_.push_back(std::get<std::shared_ptr<const Message>>(effect.what));
      queued_bytes_ += SizeOf(*queue_.back());
      return true;
    }
    // After what is queued: whoever resumes has come some way at least.
    end_ = Error(absl::StatusCode::kResourceExhausted, "SLOW_READER",
                 "the client does not read what the coordinator tells it");
    return false;
  }

  void Pump() override {
    MutexLock lock(mutex_);
    if (writing_ != nullptr || finished_) return;
    if (!queue_.empty()) {
      writing_ = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= SizeOf(*writing_);
      const Message* message = writing_.get();
      lock.Unlock();
      this->StartWrite(message);
    } else if (end_.has_value()) {
      finished_ = true;
      const grpc::Status status = ToGrpcStatus(*end_);
      lock.Unlock();
      this->Finish(status);
    }
  }

  void OnWriteDone(bool ok) override {
    bool all_read = false;
    {
      const MutexLock lock(mutex_);
      writing_ = nullptr;
      all_read = queue_.empty() && !end_.has_value();
    }
    if (!ok) {
      OnCancel();
    } else if (all_read) {
      OnAllRead();
    } else {
      Pump();
    }
  }

  // Nobody will read it, but everything that ends has a reason.
  void OnCancel() override {
    End(Error(absl::StatusCode::kCancelled, "CLIENT_GONE",
              "the client has gone"));
  }

  void OnDone() override {
    loop_.Released();
    const std::shared_ptr<ParkedCall> last = std::move(self_);
  }

 protected:
  // `peer` is the client's address.
  StreamCall(CoreLoop& loop, std::string peer)
      : loop_(loop), peer_(std::move(peer)) {}

  CoreLoop& loop() { return loop_; }

  // The client has read all that there was, and gRPC wants more. In a thread of
  // gRPC, with no lock held.
  virtual void OnAllRead() {}

  // Ends the call from the client's side; what is queued is dropped.
  void End(absl::Status status) {
    {
      const MutexLock lock(mutex_);
      queue_.clear();
      queued_bytes_ = 0;
      if (!end_.has_value()) end_ = std::move(status);
    }
    loop_.Close(stream_);
    Pump();
  }

 private:
  // Worked out once for all calls that share the message.
  static size_t SizeOf(const Message& message) {
    const int cached = message.GetCachedSize();
    return cached != 0 ? cached : message.ByteSizeLong();
  }

  CoreLoop& loop_;
  const std::string peer_;
  StreamId stream_ = 0;
  std::shared_ptr<ParkedCall> self_;

  Mutex mutex_;
  std::deque<std::shared_ptr<const Message>> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // By gRPC; one at a time.
  std::shared_ptr<const Message> writing_ ABSL_GUARDED_BY(mutex_);
  // Finish with it when all is sent.
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace shardwright

#endif  // COORDINATOR_RPC_STREAM_CALL_H_
