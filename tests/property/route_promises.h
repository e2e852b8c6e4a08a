// What route plans promise, checked by carrying them out in memory beside the
// slow way: every row goes to every rank of the language lane, is aligned by
// its token's position into the whole sequence, and the sequence is cut up.
//
// The cost grows with ranks times tokens: give small values.

#ifndef TESTS_PROPERTY_ROUTE_PROMISES_H_
#define TESTS_PROPERTY_ROUTE_PROMISES_H_

#include "absl/status/status.h"
#include "proto/plan/batch.h"
#include "proto/plan/layout.h"

namespace shardwright {

// REQUIRES: CheckBatch() found nothing.
//   Forward: every shard is bit for bit that of the slow way, also where a
//   message goes straight into it; every rank receives the rows that it owns
//   and no others, one message an edge and source rank.
//   Backward, in int64 and fp32: the gradient that reaches each encoder rank is
//   bit for bit the sum of the slow way, and every row comes back once, by tp
//   ranks in equal shares where they hold the same.
//   Digests are those of composed plans; plans survive the wire.
// A broken promise is INTERNAL, and the message says which and where.
absl::Status CheckRoutes(const Layout& layout, const Batch& batch);

}  // namespace shardwright

#endif  // TESTS_PROPERTY_ROUTE_PROMISES_H_
