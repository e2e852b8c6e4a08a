// What a layout of a million ranks costs: checking it, and saying which groups
// one rank is in. peak_KiB is the most memory that one iteration held at a time
// beyond what was there before.

#include <malloc.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "benchmark/benchmark.h"
#include "proto/plan/codec.h"
#include "proto/plan/layout.h"

namespace {

int64_t held_bytes = 0;
int64_t held_bytes_max = 0;

}  // namespace

void* operator new(size_t size) {
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  held_bytes += static_cast<int64_t>(malloc_usable_size(memory));
  held_bytes_max = std::max(held_bytes_max, held_bytes);
  return memory;
}
void operator delete(void* memory) noexcept {
  held_bytes -= static_cast<int64_t>(malloc_usable_size(memory));
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }

namespace shardwright {
namespace {

constexpr int64_t kRanks = 1000000;

// Encoder and language, each with most of the dimensions.
LayoutSpec Million(bool listed) {
  LayoutSpec spec;
  spec.name = "million";
  spec.world_size = kRanks;
  ModuleSpec& images = spec.modules.emplace_back();
  images.name = "images";
  images.role = Role::kEncoder;
  images.first_rank = 0;
  images.rank_count = 200000;
  images.tp = 4;
  images.pp = 2;
  ModuleSpec& language = spec.modules.emplace_back();
  language.name = "language";
  language.role = Role::kLanguage;
  language.tp = 8;
  language.cp = 4;
  language.pp = 5;
  language.ep = 16;
  language.expert_tp = 2;
  language.sequence_parallel = true;
  spec.edges = {{"images", "language"}};
  if (!listed) {
    language.first_rank = 200000;
    language.rank_count = 800000;
    return spec;
  }
  // Every other rank first, so that they are not consecutive.
  for (const Rank odd : {0, 1}) {
    for (Rank rank = 200000 + odd; rank < kRanks; rank += 2) {
      language.ranks.push_back(rank);
    }
  }
  return spec;
}

// Runs `iteration` and notes the most that one of them held.
template <typename Iteration>
void Measure(benchmark::State& state, Iteration iteration) {
  int64_t peak = 0;
  for (auto _ : state) {
    const int64_t before = held_bytes;
    held_bytes_max = before;
    iteration();
    peak = std::max(peak, held_bytes_max - before);
  }
  state.counters["peak_KiB"] = static_cast<double>(peak) / 1024;
}

void BM_ValidateMillion(benchmark::State& state) {
  const LayoutSpec spec = Million(state.range(0) != 0);
  Measure(state, [&] {
    const absl::StatusOr<Layout> layout = Layout::Create(spec);
    if (!layout.ok()) state.SkipWithError("not a valid layout");
  });
}
BENCHMARK(BM_ValidateMillion)
    ->ArgName("listed")
    ->Arg(0)
    ->Arg(1)
    ->Unit(benchmark::kMicrosecond);

// As ranges, on the wire.
void BM_ExplainRankOfMillion(benchmark::State& state) {
  const Layout layout = *Layout::Create(Million(/*listed=*/false));
  Rank rank = 0;
  size_t bytes = 0;
  Measure(state, [&] {
    rank = (rank + 7919) % kRanks;
    bytes = std::max(bytes, ExplainRank(layout, rank, 1)->ByteSizeLong());
  });
  state.counters["bytes"] = static_cast<double>(bytes);
}
BENCHMARK(BM_ExplainRankOfMillion)->Unit(benchmark::kMicrosecond);

// Every member of every group by number.
void BM_EveryMemberOfTheGroupsOfARankOfMillion(benchmark::State& state) {
  const Layout layout = *Layout::Create(Million(/*listed=*/false));
  const v1::RankExplanation explanation = *ExplainRank(layout, 456789, 1);
  Measure(state, [&] {
    for (const v1::GroupMembership& group : explanation.groups()) {
      benchmark::DoNotOptimize(RanksOf(group));
    }
  });
}
BENCHMARK(BM_EveryMemberOfTheGroupsOfARankOfMillion)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace shardwright
