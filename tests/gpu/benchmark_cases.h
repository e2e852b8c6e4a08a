// The micro-batches that a GPU's copies are timed with.

#ifndef TESTS_GPU_BENCHMARK_CASES_H_
#define TESTS_GPU_BENCHMARK_CASES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/plan/copy_table.h"
#include "proto/plan/shard_plan.h"

namespace shardwright {

enum class BatchKind {
  kDense,
  kThd,      // Documents of many lengths.
  kCompose,  // From text and images, which have half of the tokens.
};

struct BenchmarkCase {
  std::string name;  // "dense cp2 tp1 B=1 S=32768 H=8192"
  BatchKind kind = BatchKind::kDense;
  int64_t cp = 1, tp = 1;  // With tp > 1, sequence parallel.
  int64_t micro_batch_size = 1, seq_length = 0, hidden = 0;
};

// Cases whose embeddings are copied, and cases where they are a view.
std::vector<BenchmarkCase> ShareCases();
std::vector<BenchmarkCase> LabelCases();

// The plan of the first language rank. Ends the program on failure.
ShardPlan PlanOf(const BenchmarkCase& test);

// 100 rows in ten runs.
CopyTable SmallTable();

}  // namespace shardwright

#endif  // TESTS_GPU_BENCHMARK_CASES_H_
