// Members of a clique compare what they are about to do, before bytes move that
// only make sense if they do the same.

#ifndef WORKER_EXEC_AGREEMENT_H_
#define WORKER_EXEC_AGREEMENT_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/comm/communicator.h"

namespace shardwright {

// A value that must be equal at all members, and the error if it is not.
struct Term {
  absl::string_view reason;   // "DIGEST_MISMATCH"
  absl::string_view problem;  // "the members planned different batches"
  uint64_t value = 0;
  bool is_digest = false;  // How the message has it.
};

// What a member tells the others and need not be equal.
using Declared = std::array<int64_t, 2>;

// Returns what each member declares, by position, if all call for the same
// `operation` with equal terms. A member whose own arguments are wrong calls
// with the reason in `refusal`, and gets that back; its terms do not matter.
// REQUIRES: at most 6 terms, the same ones for an operation.
//
// Errors: as for an operation of a Communicator, and
//   INVALID_ARGUMENT PEER_REFUSED: members refuse; with ranks and a reason.
//   INVALID_ARGUMENT OPERATION_MISMATCH, or the reason of a term: the values
//       differ; the message has them, and the ranks on each side.
absl::StatusOr<std::vector<Declared>> Agree(Communicator& communicator,
                                            absl::string_view operation,
                                            absl::Span<const Term> terms,
                                            const Declared& declared,
                                            const absl::Status& refusal);

}  // namespace shardwright

#endif  // WORKER_EXEC_AGREEMENT_H_
