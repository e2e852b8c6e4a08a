// A store in memory that outlives the coordinator, refuses writes, and can take
// the coordinator with it just before or just after one.

#ifndef TESTS_SIMULATION_FAULTY_STORE_H_
#define TESTS_SIMULATION_FAULTY_STORE_H_

#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "coordinator/storage/state_store.h"
#include "proto/status/error.h"

namespace shardwright {
namespace simulation {

class FaultyStore final : public StateStore {
 public:
  enum class Fate { kWritten, kRefused, kCrashBefore, kCrashAfter };

  // Asked of each write; what was written is told to `on_commit`.
  FaultyStore(std::function<Fate()> next_fate,
              std::function<void(const Entries*)> on_commit)
      : next_fate_(std::move(next_fate)), on_commit_(std::move(on_commit)) {}

  absl::StatusOr<Entries> Load() override { return entries_; }

  absl::Status Commit(const Entries& entries) override {
    // After a crash the process does nothing more.
    const Fate fate = crashed ? Fate::kRefused : next_fate_();
    if (fate == Fate::kCrashBefore || fate == Fate::kCrashAfter) crashed = true;
    const bool written = fate == Fate::kWritten || fate == Fate::kCrashAfter;
    if (written) {
      for (const auto& [key, value] : entries) entries_[key] = value;
    }
    on_commit_(written ? &entries : nullptr);
    if (written && !crashed) return absl::OkStatus();
    return Error(absl::StatusCode::kUnavailable, "STORE_FAILED",
                 "the disk refuses");
  }

  // The process that writes is dead; whoever starts another clears it.
  bool crashed = false;

 private:
  const std::function<Fate()> next_fate_;
  const std::function<void(const Entries*)> on_commit_;
  Entries entries_;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_FAULTY_STORE_H_
