#include "tests/gpu/benchmark_cases.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/planner/planner.h"
#include "tests/gpu/device_buffers.h"

namespace shardwright {
namespace {

constexpr int64_t kImageRows = 256;
constexpr int64_t kImageToken = 501;

const char* NameOf(BatchKind kind) {
  switch (kind) {
    case BatchKind::kDense:
      return "dense";
    case BatchKind::kThd:
      return "THD";
    case BatchKind::kCompose:
      return "compose";
  }
  return "";
}

BenchmarkCase Named(BenchmarkCase test) {
  test.name = absl::StrCat(NameOf(test.kind), " cp", test.cp, " tp", test.tp,
                           " B=", test.micro_batch_size, " S=", test.seq_length,
                           " H=", test.hidden);
  return test;
}

// An encoder rank, then the language module's.
Layout LayoutOf(const BenchmarkCase& test) {
  LayoutSpec spec;
  spec.name = "benchmark";
  spec.world_size = 1 + test.cp * test.tp;
  ModuleSpec& images = spec.modules.emplace_back();
  images.name = "images";
  images.role = Role::kEncoder;
  images.first_rank = 0;
  images.rank_count = 1;
  ModuleSpec& language = spec.modules.emplace_back();
  language.name = "language";
  language.role = Role::kLanguage;
  language.first_rank = 1;
  language.rank_count = test.cp * test.tp;
  language.cp = test.cp;
  language.tp = test.tp;
  language.sequence_parallel = test.tp > 1;
  spec.edges.push_back({"images", "language"});
  return Must(Layout::Create(spec), "the layout");
}

// Documents of 1 to S/64 times 2*cp*tp tokens.
std::vector<int64_t> Documents(const BenchmarkCase& test) {
  const int64_t unit = 2 * test.cp * test.tp;
  std::mt19937 random(1);
  std::uniform_int_distribution<int64_t> units(1, test.seq_length / 64 / unit);
  std::vector<int64_t> starts = {0};
  while (starts.back() < test.seq_length) {
    starts.push_back(
        std::min(test.seq_length, starts.back() + unit * units(random)));
  }
  return starts;
}

// Text and images take turns.
Batch TokensOf(const BenchmarkCase& test) {
  Batch batch;
  batch.micro_batch_size = test.micro_batch_size;
  batch.seq_length = test.seq_length;
  batch.special_token_ids = {{"images", kImageToken}};
  std::vector<int64_t> ids(test.seq_length, 7);
  for (int64_t i = 0; i < test.seq_length; ++i) {
    if (i / kImageRows % 2 == 1) ids[i] = kImageToken;
  }
  batch.samples.assign(test.micro_batch_size, ids);
  return batch;
}

}  // namespace

std::vector<BenchmarkCase> ShareCases() {
  const std::vector<BenchmarkCase> kinds = {
      {"", BatchKind::kDense, 2, 1},      {"", BatchKind::kDense, 8, 1},
      {"", BatchKind::kThd, 2, 2},        {"", BatchKind::kCompose, 2, 2},
      {"", BatchKind::kCompose, 2, 2, 4},
  };
  std::vector<BenchmarkCase> cases;
  const auto add = [&](BenchmarkCase test, int64_t seq_length, int64_t hidden) {
    test.seq_length = seq_length;
    test.hidden = hidden;
    cases.push_back(Named(std::move(test)));
  };
  for (const BenchmarkCase& kind : kinds) {
    for (const int64_t seq_length : {32768, 131072}) {
      for (const int64_t hidden : {8192, 2688}) add(kind, seq_length, hidden);
    }
  }
  for (const BenchmarkCase& kind : kinds) {
    if (kind.micro_batch_size > 1) continue;
    for (const int64_t hidden :
         {1024, 1032, 2048, 3000, 4096, 5120, 7168, 16384}) {
      add(kind, 32768, hidden);
    }
  }
  return cases;
}

std::vector<BenchmarkCase> LabelCases() {
  std::vector<BenchmarkCase> cases;
  for (const int64_t cp : {1, 2}) {
    for (const int64_t seq_length : {8192, 32768, 131072}) {
      cases.push_back(
          Named({"", BatchKind::kDense, cp, 2, 1, seq_length, 8192}));
    }
  }
  return cases;
}

ShardPlan PlanOf(const BenchmarkCase& test) {
  const Layout layout = LayoutOf(test);
  const Rank rank = 1;  // Those of cp rank cp - 1 are one run.
  if (test.kind == BatchKind::kCompose) {
    return Must(PlanCompose(layout, rank, TokensOf(test)), "the plan");
  }
  BatchShape shape;
  shape.seq_length = test.seq_length;
  shape.micro_batch_size = test.micro_batch_size;
  if (test.kind == BatchKind::kThd) shape.cu_seqlens_padded = Documents(test);
  return Must(PlanShard(layout, rank, shape), "the plan");
}

CopyTable SmallTable() {
  std::vector<RowCopy> entries;
  for (int64_t i = 0; i < 10; ++i) {
    entries.push_back({0, 20 * i, 10 * i, 1, 10});
  }
  return Must(CopyTable::Create(entries, {200}, 100), "the table");
}

}  // namespace shardwright
