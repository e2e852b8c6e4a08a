// The C interface on a GPU against the C interface on the host: a plan's two
// tables, both directions, in one call; views; slots; and what is refused.

#include "client/native/shardwright_gpu.h"

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace {

using ::testing::HasSubstr;

constexpr char kLayout[] = R"(
name: job
world_size: 4
modules:
- {name: language, role: LANGUAGE, first_rank: 0, rank_count: 4,
   parallelism: {tp: 2, cp: 2, sequence_parallel: true}}
)";
constexpr int64_t kHidden = 24;  // Elements of bf16: rows of 48 bytes.
constexpr int64_t kSeqLength = 4096;
// Documents of a pack, so that a rank's rows are many runs.
const std::vector<int64_t> kCuSeqlens = {0, 64, 1024, 1056, 3072, 4096};

class GpuInterfaceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const sw_code code = sw_gpu_open(0, &gpu_);
    const std::string reason = sw_last_error_reason();
    if (code != SW_OK && (reason == "NO_GPU" || reason == "GPU_NOT_BUILT")) {
      GTEST_SKIP() << "SKIPPED, NOTHING TESTED: " << sw_last_error();
    }
    ASSERT_EQ(code, SW_OK) << sw_last_error();
    ASSERT_EQ(sw_job_read(kLayout, "layout.yaml", &job_), SW_OK);
    sw_batch_shape shape = {};
    shape.seq_length = kSeqLength;
    shape.micro_batch_size = 1;
    shape.cu_seqlens_padded = kCuSeqlens.data();
    shape.cu_seqlens_padded_count = static_cast<int64_t>(kCuSeqlens.size());
    ASSERT_EQ(sw_plan_shard(job_, 1, &shape, &plan_), SW_OK) << sw_last_error();
  }

  void TearDown() override {
    sw_plan_destroy(plan_);
    sw_job_destroy(job_);
    sw_gpu_destroy(gpu_);
    for (void* memory : memory_) cudaFree(memory);
  }

  std::string Random(int64_t bytes) {
    std::string text(bytes, '\0');
    for (char& byte : text) byte = static_cast<char>(random_());
    return text;
  }

  // GPU memory with these bytes.
  sw_buffer ToGpu(const std::string& bytes) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, bytes.size()), cudaSuccess);
    EXPECT_EQ(
        cudaMemcpy(memory, bytes.data(), bytes.size(), cudaMemcpyHostToDevice),
        cudaSuccess);
    memory_.push_back(memory);
    return {memory, static_cast<int64_t>(bytes.size())};
  }

  static std::string FromGpu(const sw_buffer& buffer) {
    std::string bytes(buffer.size_bytes, '\0');
    EXPECT_EQ(cudaMemcpy(bytes.data(), buffer.data, bytes.size(),
                         cudaMemcpyDeviceToHost),
              cudaSuccess);
    return bytes;
  }

  sw_gpu_operation OperationOf(sw_table_id table, const char* dtype,
                               int64_t row_elements, const sw_buffer* source,
                               sw_buffer destination) {
    sw_gpu_operation operation = {};
    operation.plan = plan_;
    operation.table = table;
    operation.dtype = dtype;
    operation.row_elements = row_elements;
    operation.sources = source;
    operation.source_count = 1;
    operation.destination = destination;
    return operation;
  }

  sw_gpu* gpu_ = nullptr;
  sw_job* job_ = nullptr;
  sw_plan* plan_ = nullptr;
  std::vector<void*> memory_;
  std::mt19937 random_{11};
};

TEST_F(GpuInterfaceTest, DoesWhatTheHostDoes) {
  std::string embeddings = Random(kSeqLength * kHidden * 2);
  std::string labels = Random(kSeqLength * 8);
  std::string shard(kSeqLength / 4 * kHidden * 2, '\x5a');
  std::string own_labels(kSeqLength / 2 * 8, '\x5a');
  const sw_buffer gpu_embeddings = ToGpu(embeddings);
  const sw_buffer gpu_labels = ToGpu(labels);
  const sw_buffer gpu_shard = ToGpu(shard);
  const sw_buffer gpu_own_labels = ToGpu(own_labels);
  ASSERT_EQ(sw_gpu_prepare(gpu_, plan_, SW_EMBEDDINGS, 0), SW_OK)
      << sw_last_error();
  sw_gpu_operation operations[] = {
      OperationOf(SW_EMBEDDINGS, "bf16", kHidden, &gpu_embeddings, gpu_shard),
      OperationOf(SW_LABELS, "int64", 1, &gpu_labels, gpu_own_labels)};
  ASSERT_EQ(sw_gpu_run(gpu_, operations, 2, nullptr), SW_OK) << sw_last_error();
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

  sw_buffer source = {embeddings.data(), gpu_embeddings.size_bytes};
  ASSERT_EQ(sw_plan_run(plan_, SW_EMBEDDINGS, kHidden * 2, &source, 1,
                        {shard.data(), gpu_shard.size_bytes}, nullptr, 0),
            SW_OK);
  EXPECT_TRUE(FromGpu(gpu_shard) == shard);
  source = {labels.data(), gpu_labels.size_bytes};
  ASSERT_EQ(
      sw_plan_run(plan_, SW_LABELS, 8, &source, 1,
                  {own_labels.data(), gpu_own_labels.size_bytes}, nullptr, 0),
      SW_OK);
  EXPECT_TRUE(FromGpu(gpu_own_labels) == own_labels);

  // And back.
  const sw_buffer gradient = ToGpu(std::string(embeddings.size(), '\x5a'));
  operations[0].sources = &gradient;
  operations[0].adjoint = 1;
  ASSERT_EQ(sw_gpu_run(gpu_, operations, 1, nullptr), SW_OK);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  source = {embeddings.data(), gpu_embeddings.size_bytes};
  ASSERT_EQ(
      sw_plan_run_adjoint(plan_, SW_EMBEDDINGS, kHidden * 2,
                          {shard.data(), gpu_shard.size_bytes}, &source, 1),
      SW_OK);
  EXPECT_TRUE(FromGpu(gradient) == embeddings);
}

TEST_F(GpuInterfaceTest, StartsNothingForAViewThatTheCallerTakes) {
  sw_batch_shape shape = {};
  shape.seq_length = kSeqLength;
  shape.micro_batch_size = 1;
  sw_plan* dense = nullptr;
  ASSERT_EQ(sw_plan_shard(job_, 1, &shape, &dense), SW_OK);
  sw_table table;
  ASSERT_EQ(sw_plan_get_table(dense, SW_EMBEDDINGS, &table), SW_OK);
  ASSERT_NE(table.is_view, 0);
  const sw_buffer source = ToGpu(Random(kSeqLength * kHidden * 2));
  sw_gpu_operation operation =
      OperationOf(SW_EMBEDDINGS, "bf16", kHidden, &source, {nullptr, 0});
  operation.plan = dense;
  EXPECT_EQ(sw_gpu_run(gpu_, &operation, 1, nullptr), SW_OK);
  char* json = nullptr;
  ASSERT_EQ(sw_gpu_describe(gpu_, &json), SW_OK);
  EXPECT_THAT(json, HasSubstr("\"copied_bytes\":0"));
  sw_free(json);
  // What is no view needs a destination.
  operation.plan = plan_;
  EXPECT_EQ(sw_gpu_run(gpu_, &operation, 1, nullptr), SW_INVALID_ARGUMENT);
  EXPECT_THAT(sw_last_error(), HasSubstr("the destination has 0 bytes"));
  sw_plan_destroy(dense);
}

TEST_F(GpuInterfaceTest, RefusesBadArgumentsAndGoesOn) {
  const sw_buffer source = ToGpu(Random(kSeqLength * kHidden * 2));
  const sw_buffer destination =
      ToGpu(std::string(kSeqLength / 4 * kHidden * 2, '\x5a'));
  const sw_gpu_operation good =
      OperationOf(SW_EMBEDDINGS, "bf16", kHidden, &source, destination);
  const auto refused = [&](sw_gpu_operation bad, const std::string& message) {
    EXPECT_EQ(sw_gpu_run(gpu_, &bad, 1, nullptr), SW_INVALID_ARGUMENT);
    EXPECT_THAT(sw_last_error(), HasSubstr(message));
  };
  sw_gpu_operation bad = good;
  bad.dtype = "bf8";
  refused(bad, "dtype is \"bf8\", must be one of fp8, bf16");
  bad = good;
  bad.dtype = "fp32";
  refused(bad, "source 0 has 196608 bytes, but the table needs 4096 rows");
  bad = good;
  bad.row_elements = -1;
  refused(bad, "row_elements is -1");
  bad = good;
  bad.table = 7;
  refused(bad, "7");
  bad = good;
  bad.destination.data = static_cast<char*>(destination.data) + 1;
  refused(bad, "not aligned to its elements of 2 bytes");
  bad = good;
  bad.destination.data = nullptr;
  refused(bad, "the destination is NULL");
  bad = good;
  bad.plan = nullptr;
  refused(bad, "either a plan or a slot");
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_TRUE(FromGpu(destination) ==
              std::string(destination.size_bytes, '\x5a'));
  EXPECT_EQ(sw_gpu_run(gpu_, &good, 1, nullptr), SW_OK) << sw_last_error();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

TEST_F(GpuInterfaceTest, RefusesHandlesThatWereDestroyed) {
  const sw_buffer source = ToGpu(Random(kSeqLength * kHidden * 2));
  const sw_buffer destination =
      ToGpu(std::string(kSeqLength / 4 * kHidden * 2, '\x5a'));
  const int64_t rows = kSeqLength;
  const sw_slot_bounds bounds = {100, &rows, 1, kSeqLength / 4};
  sw_gpu_slot* slot = nullptr;
  ASSERT_EQ(sw_gpu_slot_create(gpu_, &bounds, 0, &slot), SW_OK)
      << sw_last_error();
  ASSERT_EQ(sw_gpu_slot_write(slot, plan_, SW_EMBEDDINGS, nullptr), SW_OK)
      << sw_last_error();
  sw_gpu_operation operation =
      OperationOf(SW_EMBEDDINGS, "bf16", kHidden, &source, destination);
  operation.plan = nullptr;
  operation.slot = slot;
  ASSERT_EQ(sw_gpu_run(gpu_, &operation, 1, nullptr), SW_OK) << sw_last_error();
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_FALSE(FromGpu(destination) ==
               std::string(destination.size_bytes, '\x5a'));
  sw_gpu_slot_destroy(slot);
  EXPECT_EQ(sw_gpu_run(gpu_, &operation, 1, nullptr), SW_INVALID_ARGUMENT);
  EXPECT_STREQ(sw_last_error_reason(), "FREED_HANDLE");
  sw_gpu* const gone = gpu_;
  sw_gpu_destroy(gpu_);
  gpu_ = nullptr;
  EXPECT_EQ(sw_gpu_run(gone, &operation, 1, nullptr), SW_INVALID_ARGUMENT);
  EXPECT_STREQ(sw_last_error_reason(), "FREED_HANDLE");
}

}  // namespace
