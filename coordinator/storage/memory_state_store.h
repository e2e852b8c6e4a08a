// A StateStore that lasts as long as the object: for tests, and for trying out.

#ifndef COORDINATOR_STORAGE_MEMORY_STATE_STORE_H_
#define COORDINATOR_STORAGE_MEMORY_STATE_STORE_H_

#include "coordinator/storage/state_store.h"

namespace shardwright {

class MemoryStateStore final : public StateStore {
 public:
  absl::StatusOr<Entries> Load() override { return entries_; }
  absl::Status Commit(const Entries& entries) override {
    for (const auto& [key, value] : entries) entries_[key] = value;
    return absl::OkStatus();
  }

 private:
  Entries entries_;
};

}  // namespace shardwright

#endif  // COORDINATOR_STORAGE_MEMORY_STATE_STORE_H_
