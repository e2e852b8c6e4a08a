// CudaDevice against the host's executor, bit for bit, over an enumerated grid
// of row sizes, strides, alignments and numbers of sources. Outputs are
// poisoned, and so is what lies around them.

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cuda_runtime.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/error.h"
#include "proto/status/status_matchers.h"
#include "worker/device/cuda_device.h"
#include "worker/exec/executor.h"
#include "worker/exec/random_table.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;

constexpr char kPoison = '\xa5';
constexpr int64_t kGuard = 256;

void Check(cudaError_t error) {
  ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
}

// Host bytes, and the same on the GPU between guards, `shift` bytes behind a
// multiple of 256.
class Buffer {
 public:
  Buffer(std::string bytes, int64_t shift) : bytes_(std::move(bytes)) {
    size_ = kGuard + shift + static_cast<int64_t>(bytes_.size()) + kGuard;
    Check(cudaMalloc(&memory_, size_));
    Check(cudaMemset(memory_, kPoison, size_));
    begin_ = memory_ + kGuard + shift;
    Check(cudaMemcpy(begin_, bytes_.data(), bytes_.size(),
                     cudaMemcpyHostToDevice));
  }
  ~Buffer() { cudaFree(memory_); }
  Buffer(const Buffer&) = delete;

  Bytes device() const { return {begin_, bytes_.size()}; }
  std::string& host() { return bytes_; }

  // What the GPU has now is what `host()` says, and the guards are whole.
  void ExpectEqual(const std::string& name) const {
    std::string all(size_, '\0');
    Check(cudaMemcpy(all.data(), memory_, size_, cudaMemcpyDeviceToHost));
    std::string expected(size_, kPoison);
    const int64_t at = begin_ - memory_;
    std::copy(bytes_.begin(), bytes_.end(), expected.begin() + at);
    const auto differ = std::mismatch(all.begin(), all.end(), expected.begin());
    EXPECT_TRUE(differ.first == all.end())
        << name << ": byte " << (differ.first - all.begin()) - at << " of "
        << bytes_.size() << " differs";
  }

 private:
  std::string bytes_;
  int64_t size_ = 0;
  char* memory_ = nullptr;
  char* begin_ = nullptr;
};

// One table with buffers of its own on host and GPU.
class Case {
 public:
  Case(CopyTable table, Direction direction, int64_t row_bytes, int64_t shift,
       std::string fill, std::mt19937& random)
      : table_(std::move(table)),
        direction_(direction),
        row_bytes_(row_bytes),
        fill_(std::move(fill)) {
    const bool forward = direction == Direction::kForward;
    const auto bytes = [&](int64_t rows, bool input) {
      return input ? RandomBytes(rows * row_bytes, random)
                   : std::string(rows * row_bytes, kPoison);
    };
    for (const int64_t rows : table_.source_rows()) {
      sources_.push_back(std::make_unique<Buffer>(bytes(rows, forward), shift));
    }
    destination_ = std::make_unique<Buffer>(
        bytes(table_.destination_rows(), !forward), shift);
  }

  GpuCopy Copy() const {
    GpuCopy copy;
    copy.table = &table_;
    copy.direction = direction_;
    copy.row_bytes = row_bytes_;
    for (const auto& source : sources_) {
      copy.sources.push_back(source->device());
    }
    copy.destination = destination_->device();
    copy.fill_value = fill_;
    return copy;
  }

  // After the GPU is done: the same on the host, and compare everything.
  void ExpectSameAsHost(const std::string& name) {
    std::vector<Bytes> sources;
    for (auto& source : sources_) {
      sources.push_back(absl::MakeSpan(source->host()));
    }
    if (direction_ == Direction::kForward) {
      ASSERT_THAT(
          RunForward(table_, row_bytes_,
                     std::vector<ConstBytes>(sources.begin(), sources.end()),
                     absl::MakeSpan(destination_->host()), fill_),
          IsOk());
    } else {
      ASSERT_THAT(RunAdjoint(table_, row_bytes_, destination_->host(), sources),
                  IsOk());
    }
    for (size_t k = 0; k < sources_.size(); ++k) {
      sources_[k]->ExpectEqual(absl::StrCat(name, " source ", k));
    }
    destination_->ExpectEqual(absl::StrCat(name, " destination"));
  }

  const CopyTable& table() const { return table_; }

 private:
  const CopyTable table_;
  const Direction direction_;
  const int64_t row_bytes_;
  const std::string fill_;
  std::vector<std::unique_ptr<Buffer>> sources_;
  std::unique_ptr<Buffer> destination_;
};

class CudaDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(CudaDevice::kTableBytes); }

  void Open(int64_t table_bytes) {
    absl::StatusOr<std::unique_ptr<CudaDevice>> device =
        CudaDevice::Open("", table_bytes);
    if (ReasonOf(device.status()) == "NO_GPU") {
      GTEST_SKIP() << "SKIPPED, NOTHING TESTED: " << device.status().message();
    }
    ASSERT_THAT(device, IsOk());
    device_ = *std::move(device);
    Check(cudaStreamCreate(&stream_));
  }

  ~CudaDeviceTest() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  void RunAndCompare(std::vector<std::unique_ptr<Case>>& cases,
                     const std::string& name) {
    std::vector<GpuCopy> copies;
    for (const auto& one : cases) copies.push_back(one->Copy());
    ASSERT_THAT(device_->Run(copies, stream_), IsOk());
    Check(cudaStreamSynchronize(stream_));
    for (size_t i = 0; i < cases.size(); ++i) {
      cases[i]->ExpectSameAsHost(absl::StrCat(name, " copy ", i));
    }
  }

  std::unique_ptr<CudaDevice> device_;
  cudaStream_t stream_ = nullptr;
  std::mt19937 random_{20261124};
};

std::string FillOf(int64_t row_bytes, std::mt19937& random) {
  for (const int64_t bytes : {8, 4, 2, 1}) {
    if (row_bytes % bytes == 0) return RandomBytes(bytes, random);
  }
  return "";
}

// row_bytes, destination_stride, number of sources, shift of the addresses.
using GridCase = std::tuple<int64_t, int64_t, int, int64_t>;

class CudaDeviceGridTest : public CudaDeviceTest,
                           public ::testing::WithParamInterface<GridCase> {};

TEST_P(CudaDeviceGridTest, WritesWhatTheHostWrites) {
  const auto& [row_bytes, stride, source_count, shift] = GetParam();
  for (const Direction direction : {Direction::kForward, Direction::kAdjoint}) {
    std::vector<std::unique_ptr<Case>> cases;
    for (const int64_t rows : {0, 1, 9, 60, 700}) {
      cases.push_back(std::make_unique<Case>(
          RandomTable(stride, source_count, rows, rows % 2 == 0, random_),
          direction, row_bytes, shift, FillOf(row_bytes, random_), random_));
    }
    RunAndCompare(cases,
                  direction == Direction::kForward ? "forward" : "adjoint");
  }
}

INSTANTIATE_TEST_SUITE_P(
    Grid, CudaDeviceGridTest,
    ::testing::Combine(::testing::Values(1, 2, 3, 4, 8, 16, 48, 588, 1024, 2064,
                                         4096, 5376, 16384),
                       ::testing::Values(1, 2, 4),
                       ::testing::Values(1, 2, 5, 16),
                       ::testing::Values(0, 2, 8)),
    [](const auto& info) {
      return absl::StrCat("RowBytes", std::get<0>(info.param), "Stride",
                          std::get<1>(info.param), "Sources",
                          std::get<2>(info.param), "Shift",
                          std::get<3>(info.param));
    });

TEST_F(CudaDeviceTest, CarriesOutAllTensorsOfAMicroBatchTogether) {
  const CopyTable tokens = RandomTable(1, 1, 3000, true, random_);
  std::vector<std::unique_ptr<Case>> cases;
  for (const int64_t row_bytes : {5376, 8, 4, 1}) {  // bf16, int64, fp32, bool.
    cases.push_back(std::make_unique<Case>(tokens, Direction::kForward,
                                           row_bytes, 0, "\x7f", random_));
  }
  RunAndCompare(cases, "micro-batch");
  EXPECT_EQ(device_->usage().table_count, 1) << "they share one table";
}

TEST_F(CudaDeviceTest, CarriesOutMoreTablesThanOneLaunchTakes) {
  std::vector<std::unique_ptr<Case>> cases;
  for (int i = 0; i < 2 * kCopiesPerLaunchMax + 3; ++i) {
    cases.push_back(
        std::make_unique<Case>(RandomTable(1, 2, 20 + i, true, random_),
                               Direction::kForward, 64, 0, "", random_));
  }
  RunAndCompare(cases, "many");
}

// Tens of thousands of moves: the search has three levels.
TEST_F(CudaDeviceTest, FindsItsWayInATableOfManyRuns) {
  for (const int64_t stride : {1, 4}) {
    for (const Direction direction :
         {Direction::kForward, Direction::kAdjoint}) {
      std::vector<std::unique_ptr<Case>> cases;
      cases.push_back(std::make_unique<Case>(
          RandomTable(stride, 3, 120000 / stride, true, random_), direction,
          256, 0, "", random_));
      RunAndCompare(cases, absl::StrCat("stride ", stride));
    }
  }
}

// Each launch has a table twice and the one of the launch before, which was in
// another stream.
TEST_F(CudaDeviceTest, GivesNoPlaceOfATableAwayThatAKernelStillReads) {
  device_.reset();
  Open(64 << 10);  // Room for few of the tables below.
  std::vector<CopyTable> tables;
  std::vector<std::unique_ptr<Case>> cases;
  for (int i = 0; i < 60; ++i) {
    tables.push_back(RandomTable(1, 1, 200 + 7 * i, true, random_));
    std::vector<GpuCopy> copies;
    for (const CopyTable& table :
         {tables.back(), tables.back(), tables[std::max(i - 1, 0)]}) {
      cases.push_back(std::make_unique<Case>(table, Direction::kForward, 4096,
                                             0, "", random_));
      copies.push_back(cases.back()->Copy());
    }
    ASSERT_THAT(
        device_->Run(copies, i % 2 == 0 ? stream_ : cudaStreamPerThread),
        IsOk());
  }
  Check(cudaDeviceSynchronize());
  for (size_t i = 0; i < cases.size(); ++i) {
    cases[i]->ExpectSameAsHost(absl::StrCat("copy ", i));
  }
}

TEST_F(CudaDeviceTest, RefusesTablesThatDoNotFitTogether) {
  device_.reset();
  Open(8 << 10);
  Case one(RandomTable(1, 1, 5000, false, random_), Direction::kForward, 16, 0,
           "", random_);
  EXPECT_THAT(device_->Run({one.Copy()}, stream_),
              HasReason("TABLES_TOO_LARGE"));
}

TEST_F(CudaDeviceTest, RunsATableInSeveralStreams) {
  cudaStream_t other = nullptr;
  Check(cudaStreamCreate(&other));
  const CopyTable table = RandomTable(1, 2, 500, true, random_);
  ASSERT_THAT(device_->Prepare(table, Direction::kForward), IsOk());
  std::vector<std::unique_ptr<Case>> cases;
  for (int i = 0; i < 10; ++i) {
    cases.push_back(std::make_unique<Case>(table, Direction::kForward, 2048, 0,
                                           "", random_));
    ASSERT_THAT(device_->Run({cases.back()->Copy()}, i % 2 ? other : stream_),
                IsOk());
  }
  Check(cudaDeviceSynchronize());
  cudaStreamDestroy(other);
  for (auto& one : cases) one->ExpectSameAsHost("stream");
}

// A graph reads the slot anew: one capture carries out every table in turn.
TEST_F(CudaDeviceTest, ReplaysAGraphWithTheTableThatIsInTheSlot) {
  constexpr int64_t kRows = 600;
  TableBounds bounds;
  bounds.entry_count = kRows;
  bounds.source_rows = {4 * kRows};
  bounds.destination_rows = kRows;
  absl::StatusOr<std::unique_ptr<TableSlot>> slot =
      TableSlot::Create(device_->ordinal(), bounds, Direction::kForward);
  ASSERT_THAT(slot, IsOk());
  Buffer source(RandomBytes(4 * kRows * 1024, random_), 0);
  Buffer destination(std::string(kRows * 1024, kPoison), 0);
  GpuCopy copy;
  copy.slot = slot->get();
  copy.row_bytes = 1024;
  copy.sources = {source.device()};
  copy.destination = destination.device();

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
  ASSERT_THAT(device_->Run({copy}, stream_), IsOk());
  Check(cudaStreamEndCapture(stream_, &graph));
  Check(cudaGraphInstantiate(&replay, graph, 0));
  Check(cudaGraphLaunch(replay, stream_));  // The empty table.
  Check(cudaStreamSynchronize(stream_));
  destination.ExpectEqual("empty");
  for (int round = 0; round < 20; ++round) {
    const CopyTable random = RandomTable(1, 1, kRows, true, random_);
    const CopyTable table =
        *CopyTable::Create(random.entries(), {4 * kRows}, kRows);
    ASSERT_THAT((*slot)->Write(table, stream_), IsOk());
    Check(cudaGraphLaunch(replay, stream_));
    Check(cudaStreamSynchronize(stream_));
    ASSERT_THAT(RunForward(table, 1024, {source.host()},
                           absl::MakeSpan(destination.host())),
                IsOk());
    destination.ExpectEqual(absl::StrCat("round ", round));
  }
  Check(cudaGraphExecDestroy(replay));
  Check(cudaGraphDestroy(graph));
}

TEST_F(CudaDeviceTest, RefusesATableOutsideASlotWhileCapturing) {
  Case one(RandomTable(1, 1, 50, false, random_), Direction::kForward, 16, 0,
           "", random_);
  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
  EXPECT_THAT(device_->Run({one.Copy()}, stream_),
              HasReason("CAPTURE_NEEDS_SLOT"));
  cudaGraph_t graph = nullptr;
  Check(cudaStreamEndCapture(stream_, &graph));
  Check(cudaGraphDestroy(graph));
}

TEST_F(CudaDeviceTest, LeavesNoErrorBehindForTheCallersNextQuestion) {
  Case one(RandomTable(1, 1, 50000, false, random_), Direction::kForward, 16, 0,
           "", random_);
  ASSERT_THAT(device_->Run({one.Copy()}, stream_), IsOk());
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  Check(cudaStreamSynchronize(stream_));
  one.ExpectSameAsHost("large");
}

// The buffers have the bounds' rows, and so more than the table names.
TEST_F(CudaDeviceTest, AnAdjointInASlotZeroesAllRowsOfItsBounds) {
  TableBounds bounds;
  bounds.entry_count = 4;
  bounds.source_rows = {10};
  bounds.destination_rows = 3;
  const auto slot =
      TableSlot::Create(device_->ordinal(), bounds, Direction::kAdjoint);
  ASSERT_THAT(slot, IsOk());
  const CopyTable table = *CopyTable::Create({{0, 1, 0, 1, 3}}, {5}, 3);
  ASSERT_THAT((*slot)->Write(table, stream_), IsOk());
  Buffer source(std::string(10 * 8, kPoison), 0);
  Buffer destination(RandomBytes(3 * 8, random_), 0);
  GpuCopy copy;
  copy.slot = slot->get();
  copy.row_bytes = 8;
  copy.sources = {source.device()};
  copy.destination = destination.device();
  ASSERT_THAT(device_->Run({copy}, stream_), IsOk());
  Check(cudaStreamSynchronize(stream_));
  source.host() = std::string(8, 0) + destination.host() + std::string(48, 0);
  source.ExpectEqual("source");
}

TEST_F(CudaDeviceTest, RefusesToWriteASlotWhileCapturing) {
  TableBounds bounds;
  bounds.entry_count = 1;
  bounds.source_rows = {5};
  bounds.destination_rows = 3;
  const auto slot =
      TableSlot::Create(device_->ordinal(), bounds, Direction::kForward);
  ASSERT_THAT(slot, IsOk());
  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
  EXPECT_THAT(
      (*slot)->Write(*CopyTable::Create({{0, 1, 0, 1, 3}}, {5}, 3), stream_),
      HasReason("SLOT_WRITE_CAPTURED"));
  cudaGraph_t graph = nullptr;
  Check(cudaStreamEndCapture(stream_, &graph));
  Check(cudaGraphDestroy(graph));
}

TEST_F(CudaDeviceTest, RefusesATableBeyondASlotsBounds) {
  TableBounds bounds;
  bounds.entry_count = 2;
  bounds.source_rows = {10};
  bounds.destination_rows = 6;
  auto slot =
      TableSlot::Create(device_->ordinal(), bounds, Direction::kAdjoint);
  ASSERT_THAT(slot, IsOk());
  const auto write = [&](std::vector<RowCopy> entries, int64_t source_rows,
                         int64_t rows) {
    return (*slot)->Write(
        *CopyTable::Create(std::move(entries), {source_rows}, rows), stream_);
  };
  EXPECT_THAT(write({{0, 0, 0, 1, 6}}, 10, 6), IsOk());
  EXPECT_THAT(write({{0, 0, 0, 1, 6}}, 11, 6),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("11 rows in source 0, but the slot has room "
                                 "for 10")));
  EXPECT_THAT(write({{0, 0, 0, 1, 7}}, 10, 7),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("7 destination rows")));
  EXPECT_THAT(
      write({{0, 0, 0, 1, 1}, {0, 2, 1, 1, 1}, {0, 4, 2, 1, 1}}, 10, 3),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("3 entries")));
  bounds.entry_count = -1;
  EXPECT_THAT(
      TableSlot::Create(device_->ordinal(), bounds, Direction::kForward),
      HasReason("INVALID_SLOT_BOUNDS"));
}

class CudaDeviceRefusalTest : public CudaDeviceTest {
 protected:
  // Runs a good case after `spoil` has made it bad, and expects the message.
  template <typename Spoil>
  void ExpectRefused(const std::string& message, Spoil spoil) {
    Case one(RandomTable(1, 2, 50, false, random_), Direction::kForward, 16, 0,
             "", random_);
    GpuCopy copy = one.Copy();
    spoil(copy);
    EXPECT_THAT(
        device_->Run({copy}, stream_),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
    EXPECT_THAT(device_->Run({one.Copy()}, stream_), IsOk())
        << "the device goes on";
    Check(cudaStreamSynchronize(stream_));
    one.ExpectSameAsHost("afterwards");
  }
};

TEST_F(CudaDeviceRefusalTest, NamesTheFieldAndTheValue) {
  ExpectRefused("copy 0: source 1 is null", [](GpuCopy& copy) {
    copy.sources[1] = Bytes(nullptr, copy.sources[1].size());
  });
  ExpectRefused("copy 0: the destination has 784 bytes, but the table needs 50",
                [](GpuCopy& copy) { copy.destination.remove_suffix(16); });
  ExpectRefused(
      "is not aligned to its elements of 16 bytes", [](GpuCopy& copy) {
        copy.element_bytes = 16;
        copy.destination =
            Bytes(copy.destination.data() + 8, copy.destination.size());
      });
  ExpectRefused("row_bytes 16 is no multiple of the element's 32 bytes",
                [](GpuCopy& copy) { copy.element_bytes = 32; });
  ExpectRefused("row_bytes is 0", [](GpuCopy& copy) { copy.row_bytes = 0; });
  ExpectRefused("the fill value has 3 bytes", [](GpuCopy& copy) {
    copy.fill_value = {"abc", 3};
  });
  std::string host(800, 'x');
  ExpectRefused("the destination is in host memory", [&](GpuCopy& copy) {
    copy.destination = absl::MakeSpan(host);
  });
}

TEST_F(CudaDeviceTest, IsFoundByIndexAndUuidAndByNothingElse) {
  EXPECT_EQ(device_->name().size(), std::string("GPU-").size() + 36);
  EXPECT_THAT(CudaDevice::Open("0"), IsOk());
  EXPECT_THAT(CudaDevice::Open(device_->name()), IsOk());
  EXPECT_THAT(CudaDevice::Open("99"), HasReason("GPU_NOT_FOUND"));
  EXPECT_THAT(CudaDevice::Open("GPU-0"), HasReason("GPU_NOT_FOUND"));
}

}  // namespace
}  // namespace shardwright
