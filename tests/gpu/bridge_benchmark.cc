// How long rows take from the encoders' outputs to finished shards, and their
// gradients back, between the GPUs of this machine: a thread a rank, each with
// its own GPU. Beside it the messages alone, and plain ncclSend and ncclRecv of
// contiguous buffers in the same pattern.
//
//   bridge_benchmark --json FILE [--case SUBSTRING]
//
// Wall-clock times from when the first rank begins until the last has done,
// medians of 20 after warm-up. Shards are compared with the host's, and what
// goes there and back with what it was, byte for byte. tests/peers/bridge.py
// runs it beside the peer.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/route_planner.h"
#include "cuda_runtime_api.h"
#include "nlohmann/json.hpp"
#include "tests/gpu/device_buffers.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/comm/nccl_library.h"
#include "worker/comm/nccl_minter.h"
#include "worker/device/cuda_device.h"
#include "worker/exec/bridge.h"
#include "worker/exec/executor.h"

namespace shardwright {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRuns = 20;
constexpr int kWarmups = 5;
constexpr int64_t kHidden = 8192;
constexpr int64_t kRowBytes = 2 * kHidden;  // bf16
constexpr int64_t kImageRows = 256;
constexpr int64_t kImageToken = 501;

// Encoder lanes of one rank, then a language module, all of one sample.
struct Case {
  int64_t encoders = 1, tp = 1, cp = 1, seq_length = 0;

  int64_t rank_count() const { return encoders + tp * cp; }
  std::string name() const {
    return absl::StrCat("encoder dp", encoders, " to language tp", tp, " cp",
                        cp, " S=", seq_length);
  }
};

Layout LayoutOf(const Case& test) {
  LayoutSpec spec;
  spec.name = "benchmark";
  spec.world_size = test.rank_count();
  ModuleSpec& images = spec.modules.emplace_back();
  images.name = "images";
  images.role = Role::kEncoder;
  images.first_rank = 0;
  images.rank_count = test.encoders;
  ModuleSpec& language = spec.modules.emplace_back();
  language.name = "language";
  language.role = Role::kLanguage;
  language.first_rank = test.encoders;
  language.rank_count = test.tp * test.cp;
  language.tp = test.tp;
  language.cp = test.cp;
  language.sequence_parallel = test.tp > 1;
  spec.edges.push_back({"images", "language"});
  return Must(Layout::Create(spec), "the layout");
}

// Text and images take turns; the lanes have equal parts of the images.
Batch BatchOf(const Case& test) {
  Batch batch;
  batch.micro_batch_size = 1;
  batch.seq_length = test.seq_length;
  batch.special_token_ids = {{"images", kImageToken}};
  std::vector<int64_t> ids(test.seq_length, 7);
  for (int64_t i = 0; i < test.seq_length; ++i) {
    if (i / kImageRows % 2 == 1) ids[i] = kImageToken;
  }
  batch.samples = {ids};
  batch.encoder_rows = {
      {"images", std::vector<int64_t>(test.encoders,
                                      test.seq_length / 2 / test.encoders)}};
  return batch;
}

// Where the ranks' threads wait for one another.
class Meeting {
 public:
  explicit Meeting(int count) : count_(count) {}

  void Wait() {
    const int round = round_;
    if (++arrived_ == count_) {
      arrived_ = 0;
      ++round_;
    }
    while (round_ == round) {
    }
  }

 private:
  const int count_;
  std::atomic<int> arrived_{0}, round_{0};
};

// A thread for each rank, with its GPU.
class Team {
 public:
  explicit Team(int size) : size_(size), meeting_(size) {}

  void OnEach(const std::function<void(int)>& run) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size_; ++rank) {
      threads.emplace_back([&run, rank] {
        Must(cudaSetDevice(rank), "choosing the GPU");
        run(rank);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  // The median in microseconds.
  double Time(const std::function<void(int)>& run) {
    std::vector<Clock::time_point> begins(size_), ends(size_);
    std::vector<double> times;
    OnEach([&](int rank) {
      for (int i = -kWarmups; i < kRuns; ++i) {
        meeting_.Wait();
        begins[rank] = Clock::now();
        run(rank);
        ends[rank] = Clock::now();
        meeting_.Wait();
        if (rank > 0 || i < 0) continue;
        times.push_back(std::chrono::duration<double, std::micro>(
                            *std::max_element(ends.begin(), ends.end()) -
                            *std::min_element(begins.begin(), begins.end()))
                            .count());
      }
    });
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

 private:
  const int size_;
  Meeting meeting_;
};

// Copies in a stream of its own.
class StreamEngine : public BridgeEngine {
 public:
  explicit StreamEngine(CudaDevice& device) : device_(device) {
    Must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
         "creating a stream");
  }
  ~StreamEngine() override { cudaStreamDestroy(stream_); }

  absl::StatusOr<Bytes> Staging(int64_t byte_count) override {
    if (staging_.size() < byte_count) staging_ = DeviceBuffer(byte_count);
    return staging_.bytes();
  }

  absl::Status Copy(const CopyTable& table, Direction direction,
                    int64_t row_bytes, int64_t element_bytes,
                    absl::Span<const Bytes> sources, Bytes destination,
                    ConstBytes fill_value) override {
    GpuCopy copy;
    copy.table = &table;
    copy.direction = direction;
    copy.row_bytes = row_bytes;
    copy.element_bytes = element_bytes;
    copy.sources.assign(sources.begin(), sources.end());
    copy.destination = destination;
    copy.fill_value = fill_value;
    Must(device_.Run({copy}, stream_), "copying");
    Must(cudaStreamSynchronize(stream_), "copying");
    return absl::OkStatus();
  }

  int64_t staging_bytes() const { return staging_.size(); }

 private:
  CudaDevice& device_;
  cudaStream_t stream_ = nullptr;
  DeviceBuffer staging_;
};

// One rank's GPU, communicators and tensors.
struct Member {
  std::unique_ptr<CudaDevice> device;
  std::unique_ptr<CommunicatorFactory> factory;
  std::unique_ptr<CommunicatorAttempt> attempt;
  std::shared_ptr<Communicator> communicator;
  ncclComm_t plain = nullptr;
  std::unique_ptr<StreamEngine> engine;
  BridgePart forward, backward;
  std::vector<DeviceBuffer> tensors;  // Rows, gradients; sources, then shard.
};

class Benchmark {
 public:
  explicit Benchmark(int gpu_count)
      : nccl_(*Must(LoadNccl(), "NCCL")), members_(gpu_count) {
    for (int gpu = 0; gpu < gpu_count; ++gpu) {
      Member& member = members_[gpu];
      member.device = Must(CudaDevice::Open(absl::StrCat(gpu)), "opening");
      NcclOptions options;
      options.device = gpu;
      member.factory = Must(CreateNcclFactory(options), "NCCL");
    }
  }

  void Run(const Case& test);
  const nlohmann::ordered_json& results() const { return results_; }

 private:
  void Connect(const Case& test, Team& team);
  void Prepare(const Case& test, int rank);
  // The messages of one rank's plan, between two staging buffers.
  void Messages(int rank, std::vector<Outgoing>& sends,
                std::vector<Incoming>& receives);
  void SendPlainly(int rank, absl::Span<const Outgoing> sends,
                   absl::Span<const Incoming> receives, cudaStream_t stream);
  void CheckShards(const Case& test);
  void CheckReturned(const Case& test);

  const NcclLibrary& nccl_;
  std::vector<Member> members_;
  nlohmann::ordered_json results_ = nlohmann::ordered_json::object();
};

void Benchmark::Connect(const Case& test, Team& team) {
  const int size = test.rank_count();
  std::vector<int64_t> ranks(size);
  for (int i = 0; i < size; ++i) ranks[i] = i;
  std::string id;
  for (int i = 0; i < size; ++i) {
    CliqueAttempt attempt;
    attempt.clique = "language/bridge/0";
    attempt.ranks = ranks;
    attempt.position = i;
    attempt.slot_count = 1;
    attempt.identity = 1;
    if (i == 0) attempt.slot_indexes = {0};
    members_[i].attempt = Must(members_[i].factory->Begin(attempt), "forming");
    if (i == 0) id = Must(members_[0].attempt->Slots(), "the id").at(0);
  }
  ncclUniqueId plain_id;
  if (nccl_.GetUniqueId(&plain_id) != ncclSuccess) Fail("ncclGetUniqueId");
  team.OnEach([&](int rank) {
    Member& member = members_[rank];
    member.communicator = Must(member.attempt->Connect({id}), "connecting");
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    if (nccl_.CommInitRankConfig(&member.plain, size, plain_id, rank,
                                 &config) != ncclSuccess) {
      Fail("ncclCommInitRankConfig");
    }
  });
}

void Benchmark::Prepare(const Case& test, int rank) {
  const Layout layout = LayoutOf(test);
  const Batch batch = BatchOf(test);
  Member& member = members_[rank];
  RandomBytes random;
  member.engine = std::make_unique<StreamEngine>(*member.device);
  member.forward = BridgePart();
  member.forward.plan = Must(PlanRoute(layout, rank, batch), "the plan");
  member.forward.row_bytes = kRowBytes;
  member.forward.element_bytes = 2;
  member.backward = member.forward;
  member.backward.direction = Direction::kAdjoint;
  member.tensors.clear();
  const auto add_source = [&](int64_t rows) {
    for (BridgePart* part : {&member.forward, &member.backward}) {
      member.tensors.emplace_back(rows * kRowBytes);
      random.Fill(member.tensors.back());
      part->sources.push_back(member.tensors.back().bytes());
    }
  };
  const RoutePlan& plan = member.forward.plan;
  if (!plan.placement.has_value()) {
    add_source(test.seq_length / 2 / test.encoders);
    return;
  }
  for (size_t k = 0; k < plan.sources.size(); ++k) {
    add_source(plan.sources[k] == "text" ? plan.placement->source_rows()[k]
                                         : 0);
  }
  member.tensors.emplace_back(plan.placement->destination_rows() * kRowBytes);
  random.Fill(member.tensors.back());
  member.forward.shard = member.backward.shard = member.tensors.back().bytes();
}

void Benchmark::Messages(int rank, std::vector<Outgoing>& sends,
                         std::vector<Incoming>& receives) {
  Member& member = members_[rank];
  const RoutePlan& plan = member.forward.plan;
  // The rows' own memory: what is in it does not matter any more.
  const Bytes memory = plan.placement.has_value() ? member.forward.shard
                                                  : member.forward.sources[0];
  int64_t at = 0;
  for (const RouteEdge& edge : plan.edges) {
    for (const RouteTransfer& transfer : edge.transfers) {
      const int64_t size = transfer.row_count * kRowBytes;
      const int peer = static_cast<int>(transfer.peer);
      if (plan.placement.has_value()) {
        receives.push_back({peer, memory.subspan(at, size)});
      } else {
        sends.push_back({peer, memory.subspan(at, size)});
      }
      at += size;
    }
  }
}

void Benchmark::SendPlainly(int rank, absl::Span<const Outgoing> sends,
                            absl::Span<const Incoming> receives,
                            cudaStream_t stream) {
  const ncclComm_t comm = members_[rank].plain;
  bool good = nccl_.GroupStart() == ncclSuccess;
  for (const Outgoing& send : sends) {
    good = good && nccl_.Send(send.bytes.data(), send.bytes.size(), ncclUint8,
                              send.position, comm, stream) == ncclSuccess;
  }
  for (const Incoming& receive : receives) {
    good = good &&
           nccl_.Recv(receive.bytes.data(), receive.bytes.size(), ncclUint8,
                      receive.position, comm, stream) == ncclSuccess;
  }
  if (!good || nccl_.GroupEnd() != ncclSuccess) Fail("sending plainly");
  Must(cudaStreamSynchronize(stream), "sending plainly");
}

void Benchmark::CheckShards(const Case& test) {
  const Layout layout = LayoutOf(test);
  const Batch batch = BatchOf(test);
  std::vector<char> images;
  for (int64_t rank = 0; rank < test.encoders; ++rank) {
    const std::vector<char> rows = OnHost(members_[rank].forward.sources[0]);
    images.insert(images.end(), rows.begin(), rows.end());
  }
  for (int64_t rank = test.encoders; rank < test.rank_count(); ++rank) {
    const BridgePart& part = members_[rank].forward;
    const ShardPlan plan = Must(PlanCompose(layout, rank, batch), "the plan");
    std::vector<std::vector<char>> local;
    std::vector<ConstBytes> sources;
    for (size_t k = 0; k < part.plan.sources.size(); ++k) {
      local.push_back(OnHost(part.sources[k]));
      sources.push_back(part.plan.sources[k] == "images" ? images : local[k]);
    }
    std::vector<char> wanted(part.shard.size());
    Must(RunForward(*plan.embeddings, kRowBytes, sources,
                    absl::MakeSpan(wanted), {}),
         "the host's shard");
    if (OnHost(part.shard) != wanted) {
      Fail(absl::StrCat(test.name(), ": rank ", rank, " has other bytes"));
    }
  }
}

// The shards were sent back as if they were gradients.
void Benchmark::CheckReturned(const Case& test) {
  for (int64_t rank = 0; rank < test.rank_count(); ++rank) {
    const Member& member = members_[rank];
    if (member.forward.plan.placement.has_value()) continue;
    if (OnHost(member.forward.sources[0]) !=
        OnHost(member.backward.sources[0])) {
      Fail(absl::StrCat(test.name(), ": rank ", rank, " got other bytes back"));
    }
  }
}

void Benchmark::Run(const Case& test) {
  Team team(static_cast<int>(test.rank_count()));
  Connect(test, team);
  team.OnEach([&](int rank) { Prepare(test, rank); });
  std::vector<int64_t> received(members_.size());
  const auto run = [&](BridgePart Member::*part, const char* what) {
    return team.Time([&, part, what](int rank) {
      Member& member = members_[rank];
      received[rank] = Must(RunBridge(*member.communicator, nullptr,
                                      member.*part, *member.engine),
                            what)
                           .received_bytes;
    });
  };
  nlohmann::ordered_json& result = results_[test.name()];
  result["forward_us"] = run(&Member::forward, "forward");
  result["received_bytes"] = received;
  CheckShards(test);
  result["backward_us"] = run(&Member::backward, "backward");
  CheckReturned(test);
  std::vector<double> memory;
  for (int64_t rank = test.encoders; rank < test.rank_count(); ++rank) {
    const Member& member = members_[rank];
    const int64_t shard = member.forward.shard.size();
    memory.push_back(
        static_cast<double>(shard + member.engine->staging_bytes()) / shard);
  }
  result["memory_of_shard"] = *std::max_element(memory.begin(), memory.end());
  std::vector<std::vector<Outgoing>> sends(test.rank_count());
  std::vector<std::vector<Incoming>> receives(test.rank_count());
  std::vector<cudaStream_t> streams(test.rank_count());
  for (int rank = 0; rank < test.rank_count(); ++rank) {
    Messages(rank, sends[rank], receives[rank]);
    Must(cudaSetDevice(rank), "choosing the GPU");
    Must(cudaStreamCreateWithFlags(&streams[rank], cudaStreamNonBlocking),
         "creating a stream");
  }
  result["messages_us"] = team.Time([&](int rank) {
    Must(members_[rank].communicator->Exchange(sends[rank], receives[rank]),
         "the messages");
  });
  result["plain_us"] = team.Time([&](int rank) {
    SendPlainly(rank, sends[rank], receives[rank], streams[rank]);
  });
  team.OnEach([&](int rank) {
    (void)nccl_.CommAbort(members_[rank].plain);
    members_[rank].communicator.reset();
    members_[rank].attempt.reset();
  });
  std::printf("%s\n  %s\n", test.name().c_str(), result.dump().c_str());
  std::fflush(stdout);
}

std::vector<Case> Cases(int gpu_count) {
  std::vector<Case> cases;
  for (const int64_t seq_length : {8192, 32768, 131072}) {
    cases.push_back({1, 1, 1, seq_length});
    if (gpu_count < 4) continue;
    cases.push_back({2, 2, 1, seq_length});
    cases.push_back({2, 1, 2, seq_length});
    if (gpu_count < 8 || seq_length == 32768) continue;
    cases.push_back({4, 2, 2, seq_length});
  }
  return cases;
}

int Main(int argc, char** argv) {
  std::string json_file, filter;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (argv[i] == std::string("--json")) json_file = argv[i + 1];
    if (argv[i] == std::string("--case")) filter = argv[i + 1];
  }
  int gpu_count = 0;
  Must(cudaGetDeviceCount(&gpu_count), "counting GPUs");
  if (gpu_count < 2) Fail("this needs 2 GPUs");
  Benchmark benchmark(std::min(gpu_count, 8));
  for (const Case& test : Cases(gpu_count)) {
    if (test.name().find(filter) == std::string::npos) continue;
    benchmark.Run(test);
    if (json_file.empty()) continue;
    std::ofstream(json_file) << benchmark.results().dump(2) << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace shardwright

int main(int argc, char** argv) {
  if (const auto code = shardwright::RunNcclMinter(argc, argv)) return *code;
  return shardwright::Main(argc, argv);
}
