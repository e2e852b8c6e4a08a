// What planning adds to a call, for the server: the client takes answers as
// bytes. One server has the plan service and a method that does nothing; one
// client calls both in turn, block by block, with the same number of calls
// under way. The ratios are those of the rates of neighbouring blocks; what is
// shown is their median.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/rpc/core_loop.h"
#include "coordinator/rpc/services.h"
#include "coordinator/storage/memory_state_store.h"

namespace shardwright {
namespace {

constexpr int kCallsUnderWay = 32;
constexpr int kRounds = 15;
constexpr std::chrono::milliseconds kBlock(300);
constexpr std::chrono::seconds kDeadline(10);  // The server demands one.

// An empty request, an empty answer.
class EmptyService final : public v1::MembershipService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Leave(grpc::CallbackServerContext* context,
                                  const v1::LeaveRequest*,
                                  v1::LeaveResponse*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

v1::ApplyLayoutRequest LayoutToApply() {
  v1::ApplyLayoutRequest request;
  v1::Layout& layout = *request.mutable_layout();
  layout.set_name("benchmark");
  layout.set_world_size(16);
  v1::Module& language = *layout.add_modules();
  language.set_name("language");
  language.set_role(v1::LANGUAGE);
  language.set_first_rank(0);
  language.set_rank_count(16);
  language.mutable_parallelism()->set_tp(2);
  language.mutable_parallelism()->set_cp(4);
  language.mutable_parallelism()->set_sequence_parallel(true);
  return request;
}

struct Call {
  std::optional<grpc::ClientContext> context;
  grpc::ByteBuffer response;
};

grpc::ByteBuffer ToBuffer(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

// Makes calls of one method for one block.
class Block {
 public:
  Block(grpc::GenericStub& stub, const std::string& method,
        const google::protobuf::Message& request)
      : stub_(stub), method_(method), request_(ToBuffer(request)) {}

  // Calls a second; 0 if one fails. Once only.
  double Rate() {
    std::vector<Call> calls(kCallsUnderWay);
    for (Call& call : calls) Start(call);
    std::unique_lock<std::mutex> lock(mutex_);
    ended_.wait(lock, [&] { return under_way_ == 0; });
    const std::chrono::duration<double> elapsed = Clock::now() - begin_;
    return failed_ ? 0 : static_cast<double>(count_) / elapsed.count();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void Start(Call& call) {
    call.context.emplace();
    call.context->set_deadline(std::chrono::system_clock::now() + kDeadline);
    stub_.UnaryCall(&*call.context, method_, grpc::StubOptions(), &request_,
                    &call.response,
                    [this, &call](grpc::Status status) { Done(call, status); });
  }

  void Done(Call& call, const grpc::Status& status) {
    if (!status.ok()) failed_ = true;
    ++count_;
    if (!failed_ && Clock::now() - begin_ < kBlock) {
      Start(call);
      return;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--under_way_ == 0) ended_.notify_all();
  }

  grpc::GenericStub& stub_;
  const std::string method_;
  const grpc::ByteBuffer request_;
  const Clock::time_point begin_ = Clock::now();
  std::atomic<int64_t> count_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::condition_variable ended_;
  int under_way_ = kCallsUnderWay;  // Guarded by mutex_.
};

// A server on a loopback port, and a client of it.
class Fixture {
 public:
  Fixture() {
    auto core = CoordinatorCore::Start(store_, {}, absl::Now());
    Effects effects;
    (void)(*core)->ApplyLayout(LayoutToApply(), absl::Now(), effects);
    loop_ = std::make_unique<CoreLoop>(*std::move(core), absl::Now);
    plan_service_ = std::make_unique<PlanServiceImpl>(*loop_);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(plan_service_.get());
    builder.RegisterService(&empty_service_);
    server_ = builder.BuildAndStart();
    stub_ = std::make_unique<grpc::GenericStub>(
        grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                            grpc::InsecureChannelCredentials()));
  }
  ~Fixture() { server_->Shutdown(); }

  double EmptyRate() {
    return Block(*stub_, "/shardwright.v1.MembershipService/Leave",
                 v1::LeaveRequest())
        .Rate();
  }

  double PlanRate(const v1::GetShardPlanRequest& request) {
    return Block(*stub_, "/shardwright.v1.PlanService/GetShardPlan", request)
        .Rate();
  }

 private:
  MemoryStateStore store_;
  std::unique_ptr<CoreLoop> loop_;
  std::unique_ptr<PlanServiceImpl> plan_service_;
  EmptyService empty_service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::GenericStub> stub_;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

v1::GetShardPlanRequest DenseRequest() {
  v1::GetShardPlanRequest request;
  request.set_job("benchmark");
  request.set_rank(5);
  request.mutable_shape()->set_seq_length(8192);
  request.mutable_shape()->set_micro_batch_size(1);
  return request;
}

v1::GetShardPlanRequest ThdRequest() {
  v1::GetShardPlanRequest request = DenseRequest();
  for (int64_t document = 0; document <= 16; ++document) {
    request.mutable_shape()->add_cu_seqlens_padded(document * 512);
    request.mutable_shape()->add_cu_seqlens(document * 500);
  }
  return request;
}

void BM_GetShardPlan(benchmark::State& state) {
  const v1::GetShardPlanRequest request =
      state.range(0) == 0 ? DenseRequest() : ThdRequest();
  Fixture fixture;
  for (auto _ : state) {
    std::vector<double> empty, plans, ratios;
    for (int round = 0; round < kRounds; ++round) {
      empty.push_back(fixture.EmptyRate());
      plans.push_back(fixture.PlanRate(request));
      ratios.push_back(plans.back() / empty.back());
    }
    if (Median(ratios) == 0) state.SkipWithError("a call failed");
    state.counters["empty_per_s"] = Median(empty);
    state.counters["plans_per_s"] = Median(plans);
    state.counters["ratio"] = Median(ratios);
  }
}
BENCHMARK(BM_GetShardPlan)
    ->ArgName("documents")
    ->Arg(0)  // Dense.
    ->Arg(16)
    ->Iterations(1)
    ->Unit(benchmark::kSecond);

}  // namespace
}  // namespace shardwright
