// The bridge in the memory of one GPU. NCCL takes one rank a GPU, so messages
// go over loopback communicators here, by way of the host.

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/loopback_communicator.h"
#include "worker/device/cuda_device.h"
#include "worker/device/cuda_region_device.h"
#include "worker/device/process_identity.h"
#include "worker/rpc/bridge_plans.h"
#include "worker/rpc/caller.h"
#include "worker/rpc/region_bridge_engine.h"

namespace shardwright {
namespace {

constexpr int64_t kRowBytes = 1344;  // 672 elements of bf16.
constexpr int64_t kElementBytes = 2;

absl::Status CudaOk(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(cudaGetErrorString(error));
}

// Each letter as a row of its own.
std::string RowsOf(const std::string& letters) {
  std::string rows;
  for (char letter : letters) rows.append(kRowBytes, letter);
  return rows;
}

// What one member's trainer has on the GPU.
class Tensor {
 public:
  explicit Tensor(const std::string& letters) : text_(RowsOf(letters)) {
    if (text_.empty()) return;
    EXPECT_THAT(CudaOk(cudaMalloc(&data_, text_.size())), IsOk());
    EXPECT_THAT(CudaOk(cudaMemcpy(data_, text_.data(), text_.size(),
                                  cudaMemcpyHostToDevice)),
                IsOk());
    // The copies run in a stream that does not wait for this one.
    EXPECT_THAT(CudaOk(cudaDeviceSynchronize()), IsOk());
  }
  ~Tensor() { cudaFree(data_); }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  Bytes bytes() const { return {static_cast<char*>(data_), text_.size()}; }

  std::string Read() const {
    std::string text(text_.size(), '\0');
    if (text.empty()) return text;
    EXPECT_THAT(CudaOk(cudaMemcpy(text.data(), data_, text.size(),
                                  cudaMemcpyDeviceToHost)),
                IsOk());
    return text;
  }

 private:
  const std::string text_;
  void* data_ = nullptr;
};

// As NCCL's: messages from and to the GPU's memory.
class DeviceLoopback : public Communicator {
 public:
  explicit DeviceLoopback(std::shared_ptr<Communicator> host)
      : host_(std::move(host)) {}

  const std::vector<int64_t>& ranks() const override { return host_->ranks(); }
  int position() const override { return host_->position(); }
  absl::Status AllGather(absl::Span<const char> input,
                         absl::Span<char> output) override {
    return host_->AllGather(input, output);
  }
  absl::Status AllGatherV(absl::Span<const char> input,
                          absl::Span<const int64_t> byte_counts,
                          absl::Span<char> output) override {
    return host_->AllGatherV(input, byte_counts, output);
  }
  absl::Status Barrier() override { return host_->Barrier(); }
  absl::Status status() const override { return host_->status(); }
  void Abort(const absl::Status& why) override { host_->Abort(why); }

  absl::Status Exchange(absl::Span<const Outgoing> sends,
                        absl::Span<const Incoming> receives) override {
    std::vector<std::string> sent(sends.size()), received(receives.size());
    std::vector<Outgoing> host_sends;
    std::vector<Incoming> host_receives;
    for (size_t i = 0; i < sends.size(); ++i) {
      sent[i].resize(sends[i].bytes.size());
      RETURN_IF_ERROR(
          CudaOk(cudaMemcpy(sent[i].data(), sends[i].bytes.data(),
                            sent[i].size(), cudaMemcpyDeviceToHost)));
      host_sends.push_back({sends[i].position, sent[i]});
    }
    for (size_t i = 0; i < receives.size(); ++i) {
      received[i].resize(receives[i].bytes.size());
      host_receives.push_back(
          {receives[i].position, absl::MakeSpan(received[i])});
    }
    RETURN_IF_ERROR(host_->Exchange(host_sends, host_receives));
    for (size_t i = 0; i < receives.size(); ++i) {
      RETURN_IF_ERROR(
          CudaOk(cudaMemcpy(receives[i].bytes.data(), received[i].data(),
                            received[i].size(), cudaMemcpyHostToDevice)));
    }
    return CudaOk(cudaDeviceSynchronize());
  }

 private:
  const std::shared_ptr<Communicator> host_;
};

class RegionBridgeEngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaDevice::Open("");
    if (ReasonOf(cuda.status()) == "NO_GPU") {
      GTEST_SKIP() << cuda.status().message();
    }
    ASSERT_THAT(cuda, IsOk());
    cuda_ = *std::move(cuda);
    device_ = std::make_unique<CudaRegionDevice>(
        *cuda_, std::map<std::string, int64_t>());
    OnAllRanks([this](int rank) { Open(rank); });
  }

  static void OnAllRanks(const std::function<void(int)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < kBridgeRanks; ++rank) {
      threads.emplace_back([&body, rank] { body(rank); });
    }
    for (std::thread& thread : threads) thread.join();
  }

  void Open(int rank) {
    v1::TrainerGpu trainer;
    trainer.set_gpu_uuid(device_->uuid());
    const ProcessIdentity own = OwnProcessIdentity();
    // Of another process, or it would be refused; it shares nothing by IPC.
    trainer.mutable_process()->set_pid(own.pid + 1);
    trainer.mutable_process()->set_pid_namespace(own.pid_namespace);
    trainer.mutable_process()->set_boot_id(own.boot_id);
    trainer.mutable_process()->set_shm_device(own.shm_device);
    auto regions = RegionTable::Create(device_.get(), trainer);
    ASSERT_THAT(regions, IsOk());
    members_[rank].regions = *std::move(regions);
    CliqueAttempt attempt;
    attempt.clique = "language/bridge/0";
    attempt.ranks = {0, 1, 2};
    attempt.position = rank;
    auto connected = (*factory_.Begin(attempt))->Connect({});
    ASSERT_THAT(connected, IsOk());
    members_[rank].bridge =
        std::make_unique<DeviceLoopback>(*std::move(connected));
  }

  void Run(int rank, Direction direction, uint64_t sequence,
           const Tensor& source, const Tensor* shard) {
    Member& member = members_[rank];
    BridgePart part;
    part.plan = PlanOf(rank);
    part.direction = direction;
    part.row_bytes = kRowBytes;
    part.element_bytes = kElementBytes;
    part.sources = {source.bytes()};
    if (shard != nullptr) {
      part.sources.emplace_back();
      part.shard = shard->bytes();
    }
    part.sequence = sequence;
    RegionBridgeEngine engine(*device_, *member.regions, member.staging,
                              caller_);
    EXPECT_THAT(RunBridge(*member.bridge, nullptr, part, engine), IsOk());
  }

  struct Member {
    std::unique_ptr<RegionTable> regions;
    std::unique_ptr<DeviceMemory> staging;
    std::unique_ptr<DeviceLoopback> bridge;
  };

  std::unique_ptr<CudaDevice> cuda_;
  std::unique_ptr<CudaRegionDevice> device_;
  LoopbackFactory factory_;
  Caller caller_;
  std::array<Member, kBridgeRanks> members_;
};

TEST_F(RegionBridgeEngineTest, RowsAndGradientsAreThoseOfTheHost) {
  const std::array<std::string, kBridgeRanks> shards = {"", "aABb", "CcdD"};
  for (uint64_t sequence : {0, 2, 4}) {
    OnAllRanks([&](int rank) {
      const Tensor source(rank == 0 ? "ABCD" : "abcd");
      const Tensor shard(rank == 0 ? "" : "????");
      Run(rank, Direction::kForward, sequence, source,
          rank == 0 ? nullptr : &shard);
      EXPECT_EQ(shard.Read(), RowsOf(shards[rank]));
    });
    const std::array<std::string, kBridgeRanks> gradients = {"", "1234",
                                                             "5678"};
    const std::string zero(1, '\0');
    const std::array<std::string, kBridgeRanks> expected = {
        "2358", "14" + zero + zero, zero + zero + "67"};
    OnAllRanks([&](int rank) {
      const Tensor source("????");
      const Tensor gradient(gradients[rank]);
      Run(rank, Direction::kAdjoint, sequence + 1, source,
          rank == 0 ? nullptr : &gradient);
      EXPECT_EQ(source.Read(), RowsOf(expected[rank]));
    });
  }
}

}  // namespace
}  // namespace shardwright
