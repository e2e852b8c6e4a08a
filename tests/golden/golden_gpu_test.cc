// The shards that Megatron-Core makes (testdata/README.md), made by a GPU: all
// ranks of every golden partition, embeddings and labels in one launch.

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/planner/planner.h"
#include "cuda_runtime.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/plan/layout.h"
#include "proto/status/error.h"
#include "proto/status/status_matchers.h"
#include "worker/device/cuda_device.h"

namespace shardwright {
namespace {

constexpr int64_t kHidden = 6;  // Elements of int64 in a row of embeddings.

void Check(cudaError_t error) {
  ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
}

// Numbers in GPU memory.
class Numbers {
 public:
  explicit Numbers(const std::vector<int64_t>& values) : count_(values.size()) {
    Check(cudaMalloc(&memory_, count_ * sizeof(int64_t)));
    Check(cudaMemcpy(memory_, values.data(), count_ * sizeof(int64_t),
                     cudaMemcpyHostToDevice));
  }
  ~Numbers() { cudaFree(memory_); }
  Numbers(const Numbers&) = delete;

  Bytes bytes() const { return {memory_, count_ * sizeof(int64_t)}; }

  std::vector<int64_t> values() const {
    std::vector<int64_t> values(count_);
    Check(cudaMemcpy(values.data(), memory_, count_ * sizeof(int64_t),
                     cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  const size_t count_;
  char* memory_ = nullptr;
};

// Element h of row r is r * kHidden + h.
std::vector<int64_t> Rows(const std::vector<int64_t>& rows, int64_t elements) {
  std::vector<int64_t> values;
  for (const int64_t row : rows) {
    for (int64_t h = 0; h < elements; ++h) values.push_back(row * elements + h);
  }
  return values;
}

std::vector<int64_t> FirstRows(int64_t count) {
  std::vector<int64_t> rows(count);
  for (int64_t i = 0; i < count; ++i) rows[i] = i;
  return rows;
}

GpuCopy CopyOf(const CopyTable& table, int64_t row_bytes, const Numbers& source,
               const Numbers& destination) {
  GpuCopy copy;
  copy.table = &table;
  copy.row_bytes = row_bytes;
  copy.sources = {source.bytes()};
  copy.destination = destination.bytes();
  return copy;
}

Layout LayoutOf(const nlohmann::json& golden) {
  LayoutSpec spec;
  spec.name = "golden";
  ModuleSpec& language = spec.modules.emplace_back();
  language.name = "language";
  language.role = Role::kLanguage;
  language.tp = golden["tp_size"].get<int64_t>();
  language.cp = golden["cp_size"].get<int64_t>();
  language.sequence_parallel = golden["sequence_parallel"].get<bool>();
  language.first_rank = 0;
  language.rank_count = *language.tp * *language.cp;
  spec.world_size = *language.rank_count;
  return *Layout::Create(spec);
}

// What the golden rank has of a sequence-first and of a batch-first tensor.
void ExpectGolden(const nlohmann::json& expected, const BatchShape& shape,
                  const ShardPlan& plan, CudaDevice& device) {
  const int64_t batch = shape.micro_batch_size;
  const int64_t tokens = shape.seq_length * batch;
  std::vector<int64_t> embedding_rows, label_rows;
  for (const int64_t s : expected["embedding_positions"]) {
    for (int64_t b = 0; b < batch; ++b) embedding_rows.push_back(s * batch + b);
  }
  for (int64_t b = 0; b < batch; ++b) {
    for (const int64_t s : expected["label_positions"]) {
      label_rows.push_back(b * shape.seq_length + s);
    }
  }
  const Numbers embeddings(Rows(FirstRows(tokens), kHidden));
  const Numbers labels(FirstRows(tokens));
  const Numbers shard(
      std::vector<int64_t>(embedding_rows.size() * kHidden, -1));
  const Numbers own_labels(std::vector<int64_t>(label_rows.size(), -1));
  ASSERT_THAT(
      device.Run({CopyOf(*plan.embeddings, kHidden * 8, embeddings, shard),
                  CopyOf(plan.labels, 8, labels, own_labels)},
                 device.stream()),
      IsOk());
  ASSERT_THAT(device.Synchronize(), IsOk());
  EXPECT_EQ(shard.values(), Rows(embedding_rows, kHidden));
  EXPECT_EQ(own_labels.values(), label_rows);
}

TEST(GoldenGpuTest, MakesTheShardsThatMegatronCoreMakes) {
  auto device = CudaDevice::Open("");
  if (ReasonOf(device.status()) == "NO_GPU") {
    GTEST_SKIP() << "SKIPPED, NOTHING TESTED: " << device.status().message();
  }
  ASSERT_THAT(device, IsOk());
  std::ifstream file("tests/golden/testdata/megatron_core.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  int64_t shards = 0;
  for (size_t i = 0; i < golden["partition"].size(); ++i) {
    const nlohmann::json& one = golden["partition"][i];
    SCOPED_TRACE(absl::StrCat("partition ", i));
    BatchShape shape;
    shape.seq_length = one["seq_length"];
    shape.micro_batch_size = one["batch"];
    if (!one["cu_seqlens_padded"].is_null()) {
      shape.cu_seqlens_padded =
          one["cu_seqlens_padded"].get<std::vector<int64_t>>();
    }
    const Layout layout = LayoutOf(one);
    for (Rank rank = 0; rank < layout.world_size(); ++rank) {
      const auto plan = PlanShard(layout, rank, shape);
      ASSERT_THAT(plan, IsOk());
      for (const nlohmann::json& expected : one["ranks"]) {
        if (expected["cp"] != plan->coordinates.cp ||
            expected["tp"] != plan->coordinates.tp) {
          continue;
        }
        ExpectGolden(expected, shape, *plan, **device);
        ++shards;
      }
    }
  }
  EXPECT_GT(shards, 700);
}

}  // namespace
}  // namespace shardwright
