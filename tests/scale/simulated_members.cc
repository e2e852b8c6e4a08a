#include "tests/scale/simulated_members.h"

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>

#include "proto/status/error.h"
#include "proto/status/grpc_status.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

constexpr int kChannels = 8;
constexpr int kRegisteringThreads = 16;
constexpr std::chrono::seconds kUnaryTimeout(60);

// Beyond the wait's own timeout, so that its end arrives.
constexpr std::chrono::seconds kSlack(120);

void SetDeadline(grpc::ClientContext& context, std::chrono::seconds timeout) {
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  context.set_wait_for_ready(true);  // A connection may need a second try.
}

// What a message says of who is missing; nullptr if it is of something else.
const v1::MemberSet* MissingOf(const v1::WaitAtBarrierResponse& message) {
  return &message.missing();
}
const v1::MemberSet* MissingOf(const v1::FormCommunicatorsResponse& message) {
  return message.has_waiting() ? &message.waiting().missing() : nullptr;
}

}  // namespace

// How many calls have not been answered yet, and how many not ended.
class SimulatedMembers::Counter {
 public:
  void Start() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++unanswered_;
    ++running_;
  }
  void Answered() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--unanswered_ == 0) changed_.notify_all();
  }
  void Ended() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--running_ == 0) changed_.notify_all();
  }
  void WaitAnswered() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return unanswered_ == 0; });
  }
  void WaitEnded() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  std::mutex mutex_;  // Guards all that follows.
  std::condition_variable changed_;
  int64_t unanswered_ = 0;
  int64_t running_ = 0;
};

// One waiting call. Owns itself until gRPC has done with it.
template <typename Response>
class SimulatedMembers::WaitCall final
    : public grpc::ClientReadReactor<Response> {
 public:
  WaitCall(std::shared_ptr<Counter> counter, std::chrono::seconds timeout)
      : counter_(std::move(counter)) {
    SetDeadline(context_, timeout + kSlack);
    counter_->Start();
  }

  grpc::ClientContext* context() { return &context_; }
  const std::shared_ptr<WaitResult>& result() const { return result_; }

  void Begin() {
    this->StartRead(&message_);
    this->StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (result_->progress_count++ == 0) counter_->Answered();
    if (const v1::MemberSet* missing = MissingOf(message_)) {
      result_->missing = *missing;
    }
    this->StartRead(&message_);
  }

  void OnDone(const grpc::Status& status) override {
    result_->status = FromGrpcStatus(status);
    result_->end = std::chrono::steady_clock::now();
    if (result_->progress_count == 0) counter_->Answered();
    const std::shared_ptr<Counter> counter = std::move(counter_);
    delete this;
    counter->Ended();
  }

 private:
  std::shared_ptr<Counter> counter_;
  std::shared_ptr<WaitResult> result_ = std::make_shared<WaitResult>();
  grpc::ClientContext context_;
  Response message_;
};

SimulatedMembers::SimulatedMembers(const std::string& address,
                                   int64_t world_size)
    : running_(std::make_shared<Counter>()) {
  for (int i = 0; i < kChannels; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channels_.push_back(grpc::CreateCustomChannel(
        address, grpc::InsecureChannelCredentials(), arguments));
  }
  v1::ApplyLayoutRequest request;
  v1::Layout& layout = *request.mutable_layout();
  layout.set_name("scale");
  layout.set_world_size(world_size);
  v1::Module& language = *layout.add_modules();
  language.set_name("language");
  language.set_role(v1::LANGUAGE);
  language.set_first_rank(0);
  language.set_rank_count(world_size);
  language.mutable_parallelism()->set_tp(8);
  v1::ApplyLayoutResponse response;
  grpc::ClientContext context;
  SetDeadline(context, kUnaryTimeout);
  const grpc::Status status = v1::LayoutService::Stub(channel()).ApplyLayout(
      &context, request, &response);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.error_message().c_str());
    std::abort();
  }
  generation_ = response.generation();
  layout_digest_ = response.digest();
}

v1::Caller SimulatedMembers::CallerOf(int64_t rank) const {
  v1::Caller caller;
  caller.mutable_member()->set_job("scale");
  caller.mutable_member()->set_rank(rank);
  caller.mutable_member()->set_kind(v1::WORKER);
  caller.set_incarnation(static_cast<uint64_t>(rank) + 1);
  caller.set_generation(generation_);
  return caller;
}

const std::shared_ptr<grpc::Channel>& SimulatedMembers::ChannelOf(
    int64_t rank) const {
  return channels_[rank % kChannels];
}

absl::Status SimulatedMembers::Register(const std::vector<int64_t>& ranks) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  absl::Status first_failure;
  const auto register_some = [&] {
    for (size_t i = next++; i < ranks.size(); i = next++) {
      v1::RegisterRequest request;
      const v1::Caller caller = CallerOf(ranks[i]);
      *request.mutable_member() = caller.member();
      request.set_incarnation(caller.incarnation());
      request.mutable_facts()->set_host("host-" + std::to_string(ranks[i] / 8));
      v1::MembershipService::Stub stub(ChannelOf(ranks[i]));
      absl::Status status;
      for (;;) {
        v1::RegisterResponse response;
        grpc::ClientContext context;
        SetDeadline(context, kUnaryTimeout);
        status = FromGrpcStatus(stub.Register(&context, request, &response));
        if (ReasonOf(status) != "OVERLOADED") break;
        absl::SleepFor(FromProto(DetailOf(status).retry_delay()));
      }
      const std::lock_guard<std::mutex> lock(mutex);
      if (first_failure.ok()) first_failure = status;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kRegisteringThreads; ++i) {
    threads.emplace_back(register_some);
  }
  for (std::thread& thread : threads) thread.join();
  return first_failure;
}

void SimulatedMembers::StartBarrier(const std::vector<int64_t>& ranks,
                                    const std::string& name,
                                    std::chrono::seconds timeout) {
  for (int64_t rank : ranks) {
    v1::WaitAtBarrierRequest request;
    *request.mutable_caller() = CallerOf(rank);
    request.set_name(name);
    request.mutable_timeout()->set_seconds(timeout.count());
    using Call = WaitCall<v1::WaitAtBarrierResponse>;
    Call* call = new Call(running_, timeout);
    results_.push_back(call->result());
    v1::BarrierService::Stub(ChannelOf(rank))
        .async()
        ->WaitAtBarrier(call->context(), &request, call);
    call->Begin();
  }
  running_->WaitAnswered();
}

void SimulatedMembers::StartForming(const std::vector<int64_t>& ranks,
                                    std::chrono::seconds timeout) {
  for (int64_t rank : ranks) {
    v1::FormCommunicatorsRequest request;
    *request.mutable_caller() = CallerOf(rank);
    request.set_backend(v1::GLOO);
    request.set_layout_digest(layout_digest_);
    request.mutable_timeout()->set_seconds(timeout.count());
    using Call = WaitCall<v1::FormCommunicatorsResponse>;
    Call* call = new Call(running_, timeout);
    results_.push_back(call->result());
    v1::CommunicatorService::Stub(ChannelOf(rank))
        .async()
        ->FormCommunicators(call->context(), &request, call);
    call->Begin();
  }
  running_->WaitAnswered();
}

std::vector<WaitResult> SimulatedMembers::Wait() {
  running_->WaitEnded();
  std::vector<WaitResult> results;
  for (const std::shared_ptr<WaitResult>& result : results_) {
    results.push_back(*result);
  }
  results_.clear();
  return results;
}

}  // namespace shardwright
