// The cliques of one rank, by name: which are formed, and their communicators.

#ifndef WORKER_AGENT_CLIQUE_TABLE_H_
#define WORKER_AGENT_CLIQUE_TABLE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/communicator.pb.h"
#include "shardwright/v1/diagnostics.pb.h"
#include "worker/comm/communicator.h"

namespace shardwright {

// A group that the rank belongs to, by the layout.
struct CliqueSpec {
  std::string name;  // "language/tp/3"
  std::string kind;  // "tp"
  std::vector<int64_t> ranks;
  bool carries_rows = true;  // As of CliqueAttempt.
};

// Thread-safe.
class CliqueTable {
 public:
  using State = v1::CliqueSummary::State;  // The coordinator's words.

  struct Clique {
    CliqueSpec spec;
    State state = v1::CliqueSummary::IDLE;
    v1::Attempt attempt;                         // The newest that has begun.
    std::shared_ptr<Communicator> communicator;  // If active.
    absl::Status why;  // Of the last end of one that was active.
  };

  // Begins anew: aborts what there is with `why`, and takes the cliques of a
  // layout. Those of one member need nobody, and are active at once.
  void Reset(const std::vector<CliqueSpec>& cliques, const absl::Status& why);

  // Aborts all with `why`, for good: nothing becomes active any more, and
  // nobody waits for it.
  void Close(const absl::Status& why);

  // Without ranks if there is no such clique.
  CliqueSpec SpecOf(const std::string& name) const;

  // Makes a clique active, in place of the communicator that it had.
  void Install(const v1::Attempt& attempt,
               std::shared_ptr<Communicator> communicator);

  // What is being done about those that are not active: all, or that of an
  // attempt.
  void SetInactive(State state);
  void SetInactive(const v1::Attempt& attempt, State state);

  // Whether this very attempt is active, and its communicator not known to have
  // ended.
  bool IsActive(const v1::Attempt& attempt) const;

  // Aborts active cliques: all, those with a rank, one attempt. Returns them:
  // who lets go of the last one of a communicator waits for its end.
  std::vector<Clique> AbortAll(const absl::Status& why);
  std::vector<Clique> AbortWithRank(int64_t rank, const absl::Status& why);
  std::vector<Clique> AbortAttempt(const v1::Attempt& attempt,
                                   const absl::Status& why);

  // Aborts active cliques whose communicators have ended by themselves, and
  // returns them.
  std::vector<Clique> CollectEnded();

  // Whether there would be any.
  bool HasEnded() const;

  // Kinds of the cliques that are not active, in the order of Reset().
  std::vector<std::string> InactiveKinds() const;

  // The clique of that kind, as soon as it is active.
  //
  // Errors:
  //   FAILED_PRECONDITION CLIQUE_NOT_ACTIVE: not within `timeout`, or, at once,
  //       that the rank has no clique of that kind; the message says which.
  //   what Close() was given.
  absl::StatusOr<Clique> WaitActive(absl::string_view kind,
                                    absl::Duration timeout) const;

  // All, in the order of Reset().
  std::vector<Clique> List() const;

 private:
  template <typename Predicate>
  std::vector<Clique> AbortIf(const Predicate& predicate,
                              const absl::Status& why);

  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::vector<Clique> cliques_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);  // OK while open.
};

bool SameAttempt(const v1::Attempt& a, const v1::Attempt& b);

}  // namespace shardwright

#endif  // WORKER_AGENT_CLIQUE_TABLE_H_
