// What planning adds to a call. One server has the plan service and a method
// that does nothing; one client calls both in turn, block by block, with the
// same number of calls under way. The ratios are those of the rates of
// neighbouring blocks; what is shown is their median.

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

template <typename Response>
struct Call {
  std::optional<grpc::ClientContext> context;
  Response response;
  std::function<void(grpc::Status)> done;
};

// Calls a second, for one block. `start(call)` starts a call; 0 if one fails.
template <typename Response, typename Start>
double Rate(Start start) {
  using Clock = std::chrono::steady_clock;
  std::vector<Call<Response>> calls(kCallsUnderWay);
  std::atomic<int64_t> count = 0;
  std::atomic<bool> failed = false;
  std::mutex mutex;
  std::condition_variable ended;
  int under_way = kCallsUnderWay;  // Guarded by `mutex`.
  const Clock::time_point begin = Clock::now();
  for (Call<Response>& call : calls) {
    call.done = [&](const grpc::Status& status) {
      if (!status.ok()) failed = true;
      ++count;
      if (!failed && Clock::now() - begin < kBlock) {
        call.context.emplace();
        start(call);
        return;
      }
      const std::lock_guard<std::mutex> lock(mutex);
      if (--under_way == 0) ended.notify_all();
    };
    call.context.emplace();
    start(call);
  }
  std::unique_lock<std::mutex> lock(mutex);
  ended.wait(lock, [&] { return under_way == 0; });
  const std::chrono::duration<double> elapsed = Clock::now() - begin;
  return failed ? 0 : static_cast<double>(count) / elapsed.count();
}

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
    const auto channel =
        grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                            grpc::InsecureChannelCredentials());
    plans_ = v1::PlanService::NewStub(channel);
    empty_ = v1::MembershipService::NewStub(channel);
  }
  ~Fixture() { server_->Shutdown(); }

  double EmptyRate() {
    const v1::LeaveRequest request;
    return Rate<v1::LeaveResponse>([&](Call<v1::LeaveResponse>& call) {
      empty_->async()->Leave(&*call.context, &request, &call.response,
                             call.done);
    });
  }

  double PlanRate(const v1::GetShardPlanRequest& request) {
    return Rate<v1::ShardPlan>([&](Call<v1::ShardPlan>& call) {
      plans_->async()->GetShardPlan(&*call.context, &request, &call.response,
                                    call.done);
    });
  }

 private:
  MemoryStateStore store_;
  std::unique_ptr<CoreLoop> loop_;
  std::unique_ptr<PlanServiceImpl> plan_service_;
  EmptyService empty_service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::PlanService::Stub> plans_;
  std::unique_ptr<v1::MembershipService::Stub> empty_;
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
