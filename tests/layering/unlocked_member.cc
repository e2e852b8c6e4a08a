// Uses what a lock guards without the lock.

#include "proto/sync/mutex.h"

namespace shardwright {

class Counter {
 public:
  void Add() { ++count_; }

 private:
  Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shardwright
