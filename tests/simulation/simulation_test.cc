// Runs of the whole control plane, each drawn from one number. Without
// arguments: a fixed block of seeds, then fresh ones for the rest of a minute.
//
//   simulation_test --seed=N [--count=M]   exactly these, and no others

#include "tests/simulation/simulation.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "tests/simulation/options.h"
#include "tests/simulation/random.h"

namespace shardwright {
namespace simulation {
namespace {

constexpr uint64_t kFixedFirst = 1;
constexpr uint64_t kFixedCount = 200;
constexpr std::chrono::seconds kBudget(60);

// From the command line. A count of 0: as above.
uint64_t first_seed = 0;
uint64_t seed_count = 0;

struct Total {
  int64_t seeds = 0;
  int64_t steps = 0;
  std::map<std::string, int64_t> outcomes;
};

// What a block of seeds must have met, or it says little. As
// Simulation::outcomes() has it.
constexpr const char* kOutcomes[] = {
    "ApplyLayout STALE_GENERATION",
    "ApplyLayout STORE_FAILED",
    "FormCommunicators FENCED",
    "FormCommunicators LAYOUT_MISMATCH",
    "FormCommunicators NOT_REGISTERED",
    "FormCommunicators STALE_GENERATION",
    "Leave ",
    "PublishSlots FENCED",
    "PublishSlots NOT_YOUR_SLOT",
    "PublishSlots SLOT_TAKEN",
    "PublishSlots STALE_ATTEMPT",
    "Register FENCED",
    "Register MEMBER_ID_IN_USE",
    "Register OVERLOADED",
    "Register STORE_FAILED",
    "ReportCommunicators STALE_ATTEMPT",
    "Session FENCED",
    "Session INVALID_MEMBER",
    "Session NOT_REGISTERED",
    "WaitAtBarrier BARRIER_MISMATCH",
    "WaitAtBarrier BARRIER_SEQUENCE",
    "WatchLayouts ",
    "WatchLayouts JOB_NOT_FOUND",
    "end ",
    "end BARRIER_MISMATCH",
    "end MEMBERS_MISSING",
    "end NOT_REGISTERED",
    "end PEER_LOST",
    "end REPLACED",
    "end SESSION_SILENT",
    "end STALE_GENERATION",
    "event 1",
    "event 2",
    "event 3",
    "event 4",
    "event 5",
};

// Whether nothing was violated. A seed that fails runs again with a trace: it
// does the same.
bool RunSeed(uint64_t seed, Total& total) {
  const auto run = [seed](bool keep_trace) {
    Random random(seed);
    const Options options = Options::Draw(random);
    auto simulation =
        std::make_unique<Simulation>(options, random.Next(), keep_trace);
    simulation->Run();
    return simulation;
  };
  auto simulation = run(/*keep_trace=*/false);
  ++total.seeds;
  total.steps += simulation->step_count();
  for (const auto& [outcome, count] : simulation->outcomes()) {
    total.outcomes[outcome] += count;
  }
  const std::optional<std::string> violation = simulation->violation();
  if (!violation.has_value()) return true;
  simulation = run(/*keep_trace=*/true);
  for (const std::string& line : simulation->trace()) {
    std::printf("%s\n", line.c_str());
  }
  ADD_FAILURE() << "seed " << seed << " violates " << *violation
                << "\nreplay: bazel run //tests/simulation:simulation_test -- "
                << "--seed=" << seed;
  return false;
}

void Print(const std::string& which, const Total& total) {
  std::printf("simulation: %s: %lld seeds, %lld steps of a coordinator\n",
              which.c_str(), static_cast<long long>(total.seeds),
              static_cast<long long>(total.steps));
  std::fflush(stdout);
}

TEST(SimulationTest, KeepsEveryPromiseWhateverGoesWrong) {
  Total total;
  if (seed_count > 0) {
    for (uint64_t i = 0; i < seed_count; ++i) {
      if (!RunSeed(first_seed + i, total)) break;
      if (total.seeds % 1000 == 0) Print("so far", total);
    }
    Print(absl::StrCat("from ", first_seed), total);
    return;
  }
  const auto end = std::chrono::steady_clock::now() + kBudget;
  for (uint64_t i = 0; i < kFixedCount; ++i) {
    if (!RunSeed(kFixedFirst + i, total)) return;
  }
  Print(absl::StrCat("from ", kFixedFirst), total);
  for (const char* outcome : kOutcomes) {
    EXPECT_GT(total.outcomes[outcome], 0) << "never met: " << outcome;
  }
  const uint64_t fresh = std::random_device()();
  total = {};
  while (std::chrono::steady_clock::now() < end) {
    if (!RunSeed(fresh + total.seeds, total)) return;
  }
  Print(absl::StrCat("from ", fresh), total);
}

}  // namespace
}  // namespace simulation
}  // namespace shardwright

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  using shardwright::simulation::first_seed;
  using shardwright::simulation::seed_count;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    bool valid = false;
    if (absl::ConsumePrefix(&argument, "--seed=")) {
      valid = absl::SimpleAtoi(argument, &first_seed);
      seed_count = std::max<uint64_t>(seed_count, 1);
    } else if (absl::ConsumePrefix(&argument, "--count=")) {
      valid = absl::SimpleAtoi(argument, &seed_count);
    }
    if (!valid) {
      std::fprintf(stderr, "usage: simulation_test [--seed=N [--count=M]]\n");
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
