// Operations of a communicator that belong together.

#ifndef WORKER_COMM_CONVERSATION_H_
#define WORKER_COMM_CONVERSATION_H_

#include "absl/time/time.h"
#include "proto/sync/mutex.h"
#include "worker/comm/communicator.h"

namespace shardwright {

// Holds a communicator for operations that belong together; other threads'
// conversations wait. Members whose conversations come in different orders must
// find out by the first operation, and then go on to no other: see Agree().
class ABSL_SCOPED_LOCKABLE Conversation {
 public:
  // Operations that have not ended by `deadline` fail, as at a timeout.
  Conversation(Communicator& communicator, absl::Time deadline)
      ABSL_EXCLUSIVE_LOCK_FUNCTION(communicator.conversation_)
      : communicator_(communicator), lock_(communicator.conversation_) {
    communicator_.deadline_nanos_ = deadline == absl::InfiniteFuture()
                                        ? Communicator::kNever
                                        : absl::ToUnixNanos(deadline);
  }
  ~Conversation() ABSL_UNLOCK_FUNCTION() {
    communicator_.deadline_nanos_ = Communicator::kNever;
  }
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;

 private:
  Communicator& communicator_;
  const MutexLock lock_;
};

}  // namespace shardwright

#endif  // WORKER_COMM_CONVERSATION_H_
