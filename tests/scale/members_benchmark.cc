// Ten thousand members of one job on one machine, clients and coordinator
// together: how long they take to register, how long after the last one has
// come the others are released from a barrier, and what a waiting call costs
// the coordinator.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "tests/scale/server_process.h"
#include "tests/scale/simulated_members.h"

namespace shardwright {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 5;
constexpr std::chrono::seconds kTimeout(300);

double SecondsSince(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void BM_Members(benchmark::State& state) {
  const int64_t count = state.range(0);
  std::vector<int64_t> ranks(count);
  std::iota(ranks.begin(), ranks.end(), 0);
  const std::vector<int64_t> all_but_one(ranks.begin(), ranks.end() - 1);
  for (auto _ : state) {
    ServerProcess coordinator(
        "coordinator/coordinatord",
        {"--lease-ttl", "600", "--log-level", "warning", "--store", "memory"});
    SimulatedMembers members(coordinator.address(), count);
    const int64_t idle_bytes = coordinator.Use().resident_bytes;
    const Clock::time_point start = Clock::now();
    if (!members.Register(ranks).ok()) state.SkipWithError("not registered");
    state.counters["register_s"] = SecondsSince(start, Clock::now());
    const int64_t registered_bytes = coordinator.Use().resident_bytes;
    state.counters["bytes_per_member"] =
        static_cast<double>((registered_bytes - idle_bytes) / count);
    std::vector<double> last, p99;
    for (int round = 0; round < kRounds; ++round) {
      const std::string name = "round-" + std::to_string(round);
      members.StartBarrier(all_but_one, name, kTimeout);
      const ProcessUse parked = coordinator.Use();
      if (round == 0) {
        state.counters["server_threads"] = parked.threads;
        state.counters["bytes_per_wait"] = static_cast<double>(
            (parked.resident_bytes - registered_bytes) / count);
      }
      const Clock::time_point release = Clock::now();
      members.StartBarrier({count - 1}, name, kTimeout);
      std::vector<double> seconds;
      for (const WaitResult& result : members.Wait()) {
        if (!result.status.ok()) {
          state.SkipWithError(result.status.ToString().c_str());
        }
        seconds.push_back(SecondsSince(release, result.end));
      }
      std::sort(seconds.begin(), seconds.end());
      last.push_back(seconds.back());
      p99.push_back(seconds[seconds.size() * 99 / 100]);
    }
    state.counters["release_p99_s"] = Median(p99);
    state.counters["release_s"] = Median(last);
  }
}
BENCHMARK(BM_Members)
    ->ArgName("members")
    ->Arg(10000)
    ->Iterations(1)
    ->Unit(benchmark::kSecond);

}  // namespace
}  // namespace shardwright
