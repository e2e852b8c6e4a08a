// What planning costs on one core: packs of 4,096 documents at cp 64 (THD), the
// same made of tokens, a dense batch, and routes. One iteration is one call, or
// one for each of the 64 cp ranks; p50 and p99 are over iterations, in time of
// this thread, so that others on the machine do not count.

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <random>
#include <vector>

#include "benchmark/benchmark.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/route_planner.h"

namespace shardwright {
namespace {

constexpr int64_t kCp = 64;
constexpr int64_t kDocuments = 4096;

Layout LanguageOnly() {
  LayoutSpec spec;
  spec.name = "benchmark";
  spec.world_size = kCp;
  ModuleSpec& language = spec.modules.emplace_back();
  language.name = "language";
  language.role = Role::kLanguage;
  language.first_rank = 0;
  language.rank_count = kCp;
  language.cp = kCp;
  return *Layout::Create(spec);
}

// Documents of 1 to `units_max` times 2 * cp tokens, the last eighth of each
// padding.
BatchShape PackOf(int64_t documents, int64_t units_max) {
  std::mt19937 random(1);
  BatchShape shape;
  shape.micro_batch_size = 1;
  shape.cu_seqlens_padded = {0};
  shape.cu_seqlens = {0};
  for (int64_t i = 0; i < documents; ++i) {
    const int64_t length =
        2 * kCp * std::uniform_int_distribution<int64_t>(1, units_max)(random);
    shape.cu_seqlens_padded.push_back(shape.cu_seqlens_padded.back() + length);
    shape.cu_seqlens.push_back(shape.cu_seqlens.back() + length - length / 8);
  }
  shape.seq_length = shape.cu_seqlens_padded.back();
  return shape;
}

// Text with a picture of 64 tokens in each document.
Batch TokensOf(const BatchShape& shape) {
  Batch batch;
  batch.micro_batch_size = 1;
  batch.seq_length = shape.seq_length;
  batch.special_token_ids = {{"images", 501}};
  batch.cu_seqlens_padded = {shape.cu_seqlens_padded};
  std::vector<int64_t>& ids = batch.samples.emplace_back(shape.seq_length, 7);
  for (size_t i = 0; i + 1 < shape.cu_seqlens_padded.size(); ++i) {
    std::fill_n(ids.begin() + shape.cu_seqlens_padded[i] + 16, 64, 501);
  }
  return batch;
}

double ThreadUs() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e6 +
         static_cast<double>(time.tv_nsec) * 1e-3;
}

// Calls `plan(rank)` for `ranks` ranks an iteration.
template <typename Plan>
void MeasureRanks(benchmark::State& state, int64_t ranks, Plan plan) {
  std::vector<double> us;
  Rank next = 0;
  for (auto _ : state) {
    const double start = ThreadUs();
    for (int64_t i = 0; i < ranks; ++i) {
      auto made = plan(next++ % kCp);
      if (!made.ok()) state.SkipWithError(made.status().ToString().c_str());
      benchmark::DoNotOptimize(made);
    }
    us.push_back(ThreadUs() - start);
  }
  std::sort(us.begin(), us.end());
  state.counters["p50_us"] = us[us.size() / 2];
  state.counters["p99_us"] = us[us.size() * 99 / 100];
}

void BM_PlanShardThd(benchmark::State& state) {
  const Layout layout = LanguageOnly();
  const BatchShape shape = PackOf(kDocuments, 15);
  MeasureRanks(state, state.range(0),
               [&](Rank rank) { return PlanShard(layout, rank, shape); });
}
BENCHMARK(BM_PlanShardThd)
    ->ArgName("ranks")
    ->Arg(1)
    ->Arg(kCp)
    ->Unit(benchmark::kMicrosecond);

void BM_PlanShardDense(benchmark::State& state) {
  const Layout layout = LanguageOnly();
  const BatchShape shape = {131072, 4, {}, {}};
  MeasureRanks(state, 1,
               [&](Rank rank) { return PlanShard(layout, rank, shape); });
}
BENCHMARK(BM_PlanShardDense)->Unit(benchmark::kMicrosecond);

void BM_PlanComposeThd(benchmark::State& state) {
  const Layout layout = LanguageOnly();
  const Batch batch = TokensOf(PackOf(kDocuments, 1));
  state.counters["tokens"] = static_cast<double>(batch.seq_length);
  MeasureRanks(state, state.range(0),
               [&](Rank rank) { return PlanCompose(layout, rank, batch); });
}
BENCHMARK(BM_PlanComposeThd)
    ->ArgName("ranks")
    ->Arg(1)
    ->Arg(kCp)
    ->Unit(benchmark::kMicrosecond);

// 64 encoder ranks (tp 2, 32 lanes), 256 language ranks (tp 8, cp 4, 8 lanes).
Layout LargeJob() {
  LayoutSpec spec;
  spec.name = "benchmark";
  spec.world_size = 320;
  spec.modules.resize(2);
  ModuleSpec& images = spec.modules[0];
  images.name = "images";
  images.role = Role::kEncoder;
  images.first_rank = 0;
  images.rank_count = 64;
  images.tp = 2;
  ModuleSpec& language = spec.modules[1];
  language.name = "language";
  language.role = Role::kLanguage;
  language.first_rank = 64;
  language.rank_count = 256;
  language.tp = 8;
  language.cp = 4;
  language.sequence_parallel = true;
  spec.edges = {{"images", "language"}};
  return *Layout::Create(spec);
}

// 64 samples of 8,192 tokens with 20 images of 200 each.
Batch ImageBatch() {
  Batch batch;
  batch.micro_batch_size = 8;
  batch.seq_length = 8192;
  batch.special_token_ids = {{"images", 501}};
  for (int sample = 0; sample < 64; ++sample) {
    std::vector<int64_t>& ids = batch.samples.emplace_back(8192, 7);
    for (int image = 0; image < 20; ++image) {
      std::fill_n(ids.begin() + 400 * image + sample, 200, 501);
    }
  }
  return batch;
}

// Rank 100 receives, rank 10 sends.
void BM_PlanRoute(benchmark::State& state) {
  const Layout layout = LargeJob();
  const Batch batch = ImageBatch();
  MeasureRanks(state, 1,
               [&](Rank) { return PlanRoute(layout, state.range(0), batch); });
}
BENCHMARK(BM_PlanRoute)
    ->ArgName("rank")
    ->Arg(10)
    ->Arg(100)
    ->Unit(benchmark::kMicrosecond);

// From a batch that has been read already.
void BM_RouteOfRank(benchmark::State& state) {
  const Layout layout = LargeJob();
  const Batch batch = ImageBatch();
  const RoutePlanner planner = *RoutePlanner::Create(layout, batch);
  MeasureRanks(state, 1, [&](Rank) { return planner.PlanFor(state.range(0)); });
}
BENCHMARK(BM_RouteOfRank)
    ->ArgName("rank")
    ->Arg(10)
    ->Arg(100)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace shardwright
