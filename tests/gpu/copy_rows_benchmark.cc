// How fast the GPU carries out the copy tables of real plans, as a share of
// cudaMemcpyAsync of the same bytes in the same run: embeddings (bf16), labels
// (int64) and loss mask (fp32) in one launch. And what a small table costs,
// with and without a CUDA graph.
//
//   copy_rows_benchmark [--case SUBSTRING] [--json FILE]
//
// Times are medians of 20 by CUDA events. The two copies take turns, on sets of
// buffers that are together far larger than L2. Once as a caller meets them who
// starts one at a time: where the GPU is done before the host has started the
// next, the host's call is in the time. And once on the GPU alone: all copies
// are in the stream before the first may begin. Results are compared with the
// host executor's, byte for byte, where the sources are not too large for it.

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "cuda_runtime_api.h"
#include "nlohmann/json.hpp"
#include "proto/plan/copy_table.h"
#include "proto/plan/shard_plan.h"
#include "tests/gpu/benchmark_cases.h"
#include "tests/gpu/device_buffers.h"
#include "worker/device/cuda_device.h"
#include "worker/device/table_memory.h"
#include "worker/exec/executor.h"

namespace shardwright {
namespace {

constexpr int kRuns = 20;
constexpr int kWarmups = 3;
constexpr int64_t kCheckedBytesMax = int64_t{600} << 20;
constexpr int64_t kSetsBytesMin = int64_t{1} << 30;  // Many times L2.
constexpr int kReplays = 1000;

// Keeps what comes next in a stream from beginning, until it is opened.
class Gate {
 public:
  explicit Gate(cudaStream_t stream) {
    Must(cudaLaunchHostFunc(stream, &Gate::Wait, &open_), "closing a gate");
  }
  void Open() { open_ = true; }

 private:
  static void Wait(void* open) {
    while (!*static_cast<std::atomic<bool>*>(open)) std::this_thread::yield();
  }

  std::atomic<bool> open_{false};
};

// Medians of our copies and of cudaMemcpyAsync.
struct Times {
  double ours_us = 0, memcpy_us = 0;
  double share() const { return memcpy_us / ours_us; }
};

// Everything of one micro-batch on the device.
struct BufferSet {
  std::vector<DeviceBuffer> sources;
  DeviceBuffer embeddings;  // With room for labels and mask, for the memcpy.
  DeviceBuffer labels, local_labels, mask, local_mask;
  std::vector<GpuCopy> copies;
};

class Benchmark {
 public:
  explicit Benchmark(std::string filter) : filter_(std::move(filter)) {
    device_ = Must(CudaDevice::Open(""), "opening the GPU");
    Must(cudaSetDevice(device_->ordinal()), "choosing the GPU");
    Must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
         "creating a stream");
    random_ = std::make_unique<RandomBytes>();
    std::printf("%s\n%-44s %10s %10s %8s  %s\n", device_->facts().name.c_str(),
                "case", "ours, us", "memcpy, us", "share",
                "the same on the GPU alone");
  }

  void RunAll();
  const nlohmann::json& figures() const { return figures_; }

 private:
  bool Wanted(const std::string& name) const {
    return name.find(filter_) != std::string::npos;
  }
  void Record(const std::string& name, double got, const char* unit,
              double reference) {
    figures_[name] = {{"got", got}, {"unit", unit}, {"reference", reference}};
    std::fflush(stdout);
  }

  BufferSet MakeSet(const BenchmarkCase& test, const ShardPlan& plan);
  void CheckSet(const BenchmarkCase& test, const BufferSet& set);
  void CheckCopy(const std::string& name, const GpuCopy& copy);

  void MeasureShare(const BenchmarkCase& test);
  Times TakeTurns(const std::vector<BufferSet>& sets, bool gpu_alone);
  void MeasureLabels(const BenchmarkCase& test);
  void MeasureSmallTable();
  double MeasureReplays(const CopyTable& table, GpuCopy copy);
  double MeasureLaunches(const GpuCopy& copy);

  // Of `count` calls of `start`, all together, in us.
  double Time(int count, const std::function<void()>& start);

  const std::string filter_;
  std::unique_ptr<CudaDevice> device_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<RandomBytes> random_;
  nlohmann::json figures_ = nlohmann::json::object();
};

GpuCopy CopyOf(const CopyTable& table, int64_t row_bytes, int64_t element_bytes,
               std::vector<Bytes> sources, DeviceBuffer& destination) {
  GpuCopy copy;
  copy.table = &table;
  copy.row_bytes = row_bytes;
  copy.element_bytes = element_bytes;
  copy.sources = std::move(sources);
  copy.destination = destination.bytes(table.destination_rows() * row_bytes);
  return copy;
}

// Labels and loss mask; nothing where they are views of the whole ones.
int64_t LabelBytes(const ShardPlan& plan) {
  return plan.labels.IsView() ? 0 : plan.labels.destination_rows() * (8 + 4);
}

BufferSet Benchmark::MakeSet(const BenchmarkCase& test, const ShardPlan& plan) {
  BufferSet set;
  if (!plan.embeddings->IsView()) {
    const int64_t row_bytes = test.hidden * 2;
    std::vector<Bytes> sources;
    for (const int64_t rows : plan.embeddings->source_rows()) {
      set.sources.emplace_back(rows * row_bytes);
      random_->Fill(set.sources.back());
      sources.push_back(set.sources.back().bytes());
    }
    set.embeddings = DeviceBuffer(
        plan.embeddings->destination_rows() * row_bytes + LabelBytes(plan));
    set.copies.push_back(CopyOf(*plan.embeddings, row_bytes, 2,
                                std::move(sources), set.embeddings));
  }
  if (plan.labels.IsView()) return set;
  const int64_t source_rows = plan.labels.source_rows()[0];
  const int64_t rows = plan.labels.destination_rows();
  set.labels = DeviceBuffer(source_rows * 8);
  set.mask = DeviceBuffer(source_rows * 4);
  random_->Fill(set.labels);
  random_->Fill(set.mask);
  set.local_labels = DeviceBuffer(rows * 8);
  set.local_mask = DeviceBuffer(rows * 4);
  set.copies.push_back(
      CopyOf(plan.labels, 8, 8, {set.labels.bytes()}, set.local_labels));
  set.copies.push_back(
      CopyOf(plan.labels, 4, 4, {set.mask.bytes()}, set.local_mask));
  return set;
}

void Benchmark::CheckCopy(const std::string& name, const GpuCopy& copy) {
  std::vector<std::vector<char>> sources;
  std::vector<ConstBytes> views;
  for (const Bytes& source : copy.sources) {
    sources.push_back(OnHost(source));
    views.emplace_back(sources.back());
  }
  std::vector<char> expected(copy.destination.size());
  Must(RunForward(*copy.table, copy.row_bytes, views, absl::MakeSpan(expected)),
       "running on the host");
  const std::vector<char> got = OnHost(copy.destination);
  if (got == expected) return;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == expected[i]) continue;
    Fail(name + ": byte " + std::to_string(i % copy.row_bytes) + " of row " +
         std::to_string(i / copy.row_bytes) + " is wrong");
  }
}

void Benchmark::CheckSet(const BenchmarkCase& test, const BufferSet& set) {
  int64_t bytes = 0;
  for (const DeviceBuffer& source : set.sources) bytes += source.size();
  if (bytes > kCheckedBytesMax) return;
  for (const GpuCopy& copy : set.copies) {
    Must(cudaMemsetAsync(copy.destination.data(), 0xa5, copy.destination.size(),
                         stream_),
         "poisoning the output");
  }
  Must(device_->Run(set.copies, stream_), "copying");
  Must(cudaStreamSynchronize(stream_), "copying");
  for (const GpuCopy& copy : set.copies) CheckCopy(test.name, copy);
}

void Benchmark::MeasureShare(const BenchmarkCase& test) {
  const ShardPlan plan = PlanOf(test);
  std::vector<BufferSet> sets;
  int64_t set_bytes = 0;
  do {
    const int64_t before = DeviceBuffer::total();
    sets.push_back(MakeSet(test, plan));
    set_bytes = DeviceBuffer::total() - before;
  } while (sets.size() < 2 ||
           set_bytes * static_cast<int64_t>(sets.size()) < kSetsBytesMin);
  CheckSet(test, sets[0]);

  const Times called = TakeTurns(sets, /*gpu_alone=*/false);
  const Times alone = TakeTurns(sets, /*gpu_alone=*/true);
  std::printf("%-44s %10.1f %10.1f %7.1f%%  %10.1f %10.1f %7.1f%%\n",
              test.name.c_str(), called.ours_us, called.memcpy_us,
              100 * called.share(), alone.ours_us, alone.memcpy_us,
              100 * alone.share());
  const double reference = test.hidden == 8192   ? 0.92
                           : test.hidden == 2688 ? 0.87
                                                 : 0.70;
  Record("share of memcpy, " + test.name, called.share(), "of cudaMemcpyAsync",
         reference);
  Record("share of memcpy on the GPU alone, " + test.name, alone.share(),
         "of cudaMemcpyAsync", reference);
}

Times Benchmark::TakeTurns(const std::vector<BufferSet>& sets, bool gpu_alone) {
  const int64_t copied = sets[0].embeddings.size();
  Stopwatch ours(kRuns), theirs(kRuns);
  std::unique_ptr<Gate> gate;
  if (gpu_alone) gate = std::make_unique<Gate>(stream_);
  for (int i = -kWarmups; i < kRuns; ++i) {
    const BufferSet& set = sets[(i + kWarmups) % sets.size()];
    const BufferSet& next = sets[(i + kWarmups + 1) % sets.size()];
    ours.Start(i, stream_);
    Must(device_->Run(set.copies, stream_), "copying");
    ours.Stop(i, stream_);
    theirs.Start(i, stream_);
    Must(cudaMemcpyAsync(next.embeddings.data(), next.sources[0].data(), copied,
                         cudaMemcpyDeviceToDevice, stream_),
         "cudaMemcpyAsync");
    theirs.Stop(i, stream_);
  }
  if (gate != nullptr) gate->Open();
  Must(cudaStreamSynchronize(stream_), "copying");
  return {ours.MedianUs(), theirs.MedianUs()};
}

// Where the embeddings are a view: what remains to be done, as a caller sees
// it who starts on an idle GPU.
void Benchmark::MeasureLabels(const BenchmarkCase& test) {
  const ShardPlan plan = PlanOf(test);
  if (!plan.embeddings->IsView()) Fail(test.name + " is no view");
  const BufferSet set = MakeSet(test, plan);
  double us = 0;
  if (!set.copies.empty()) {
    CheckSet(test, set);
    Stopwatch watch(kRuns);
    for (int i = -kWarmups; i < kRuns; ++i) {
      watch.Start(i, stream_);
      Must(device_->Run(set.copies, stream_), "copying");
      watch.Stop(i, stream_);
      Must(cudaStreamSynchronize(stream_), "copying");
    }
    us = watch.MedianUs();
  }
  std::printf("%-44s %10.1f\n", test.name.c_str(), us);
  Record("labels and mask, " + test.name, us, "us", 15);
}

double Benchmark::Time(int count, const std::function<void()>& start) {
  for (int i = 0; i < 10; ++i) start();
  Stopwatch watch(1);
  watch.Start(0, stream_);
  for (int i = 0; i < count; ++i) start();
  watch.Stop(0, stream_);
  Must(cudaStreamSynchronize(stream_), "copying");
  return watch.MedianUs();
}

double Benchmark::MeasureReplays(const CopyTable& table, GpuCopy copy) {
  TableBounds bounds;
  bounds.entry_count = static_cast<int64_t>(table.entries().size());
  bounds.source_rows = table.source_rows();
  bounds.destination_rows = table.destination_rows();
  const std::unique_ptr<TableSlot> slot =
      Must(TableSlot::Create(device_->ordinal(), bounds, Direction::kForward),
           "creating a slot");
  Must(slot->Write(table, stream_), "writing the slot");
  copy.table = nullptr;
  copy.slot = slot.get();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  Must(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
       "beginning a capture");
  Must(device_->Run({copy}, stream_), "capturing");
  Must(cudaStreamEndCapture(stream_, &graph), "ending a capture");
  Must(cudaGraphInstantiate(&executable, graph, 0), "making a graph");
  const double us = Time(kReplays, [&] {
    Must(cudaGraphLaunch(executable, stream_), "replaying");
  });
  Must(cudaGraphExecDestroy(executable), "ending a graph");
  Must(cudaGraphDestroy(graph), "ending a graph");
  return us / kReplays;
}

double Benchmark::MeasureLaunches(const GpuCopy& copy) {
  return Time(kReplays,
              [&] { Must(device_->Run({copy}, stream_), "copying"); }) /
         kReplays;
}

void Benchmark::MeasureSmallTable() {
  constexpr int64_t kRowBytes = 8192 * 2;
  const CopyTable table = SmallTable();
  DeviceBuffer source(table.source_rows()[0] * kRowBytes);
  DeviceBuffer destination(table.destination_rows() * kRowBytes);
  random_->Fill(source);
  const GpuCopy copy =
      CopyOf(table, kRowBytes, 2, {source.bytes()}, destination);
  const auto measure = [&](const std::string& name, double reference,
                           const std::function<double()>& run) {
    if (!Wanted(name)) return;
    Must(cudaMemsetAsync(destination.data(), 0xa5, destination.size(), stream_),
         "poisoning the output");
    const double us = run();
    CheckCopy(name, copy);
    std::printf("%-44s %10.2f\n", name.c_str(), us);
    Record(name, us, "us", reference);
  };
  measure("100 rows, replay of a graph", 8,
          [&] { return MeasureReplays(table, copy); });
  measure("100 rows, launch", 15, [&] { return MeasureLaunches(copy); });
}

void Benchmark::RunAll() {
  for (const BenchmarkCase& test : ShareCases()) {
    if (Wanted("share of memcpy, " + test.name)) MeasureShare(test);
  }
  for (const BenchmarkCase& test : LabelCases()) {
    if (Wanted("labels and mask, " + test.name)) MeasureLabels(test);
  }
  MeasureSmallTable();
}

int Main(int argc, char** argv) {
  std::string filter, path;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc || (name != "--case" && name != "--json")) {
      Fail("usage: copy_rows_benchmark [--case SUBSTRING] [--json FILE]");
    }
    (name == "--case" ? filter : path) = argv[i + 1];
  }
  Benchmark benchmark(filter);
  benchmark.RunAll();
  if (benchmark.figures().empty()) Fail("no case has \"" + filter + "\"");
  if (path.empty()) return 0;
  std::ofstream file(path);
  file << benchmark.figures().dump(1) << "\n";
  file.close();
  if (!file) Fail("cannot write " + path);
  return 0;
}

}  // namespace
}  // namespace shardwright

int main(int argc, char** argv) { return shardwright::Main(argc, argv); }
