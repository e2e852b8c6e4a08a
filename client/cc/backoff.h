// How long to wait before trying again: exponential backoff with full jitter,
// so that a thousand clients that lost one server do not return together.

#ifndef CLIENT_CC_BACKOFF_H_
#define CLIENT_CC_BACKOFF_H_

#include <algorithm>
#include <random>

#include "absl/time/time.h"

namespace shardwright {

// One-thread-only.
class Backoff {
 public:
  static constexpr absl::Duration kInitial = absl::Milliseconds(100);
  static constexpr absl::Duration kMax = absl::Seconds(2);

  explicit Backoff(uint64_t seed = std::random_device()()) : random_(seed) {}

  // Uniform in [0, ceiling); the ceiling doubles from kInitial up to kMax.
  absl::Duration Next() {
    const absl::Duration delay =
        ceiling_ * std::uniform_real_distribution<double>(0, 1)(random_);
    ceiling_ = std::min(2 * ceiling_, kMax);
    return delay;
  }

  // Begins again at kInitial: after a success.
  void Reset() { ceiling_ = kInitial; }

 private:
  std::mt19937_64 random_;
  absl::Duration ceiling_ = kInitial;
};

}  // namespace shardwright

#endif  // CLIENT_CC_BACKOFF_H_
