// The one source of chance in a simulation: the same numbers for the same seed,
// with every compiler and library.

#ifndef TESTS_SIMULATION_RANDOM_H_
#define TESTS_SIMULATION_RANDOM_H_

#include <cstdint>
#include <random>

#include "absl/time/time.h"

namespace shardwright {
namespace simulation {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  uint64_t Next() { return engine_(); }

  // In [0, 1).
  double Fraction() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

  // In [0, bound). REQUIRES: bound > 0.
  int64_t Below(int64_t bound) { return Next() % bound; }

  bool Chance(double probability) { return Fraction() < probability; }

  absl::Duration Between(absl::Duration low, absl::Duration high) {
    return low + absl::Trunc((high - low) * Fraction(), absl::Microseconds(1));
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_RANDOM_H_
