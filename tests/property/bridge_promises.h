// What RunBridge promises, checked by running it on every member of the bridge,
// as threads, beside the slow way: every rank gets all rows of its lane, and
// composes its shard of them.

#ifndef TESTS_PROPERTY_BRIDGE_PROMISES_H_
#define TESTS_PROPERTY_BRIDGE_PROMISES_H_

#include "absl/status/status.h"
#include "proto/plan/batch.h"
#include "proto/plan/layout.h"
#include "tests/property/random_values.h"

namespace shardwright {

// REQUIRES: CheckBatch() found nothing.
//   Forward: every shard is bit for bit that of the slow way, and each rank
//   receives the bytes of the rows that it owns.
//   Backward: every rank of an encoder lane has the whole gradient, which is
//   the sum over the language ranks, and each language rank that of its local
//   sources.
//   Nothing is written beside tensors and the staging that was asked for. Of a
//   language rank that is, in each direction, no more than what comes by edges;
//   with the shard, at most 2.2 shards.
// A broken promise is INTERNAL, and the message says which and where.
absl::Status CheckBridge(const Layout& layout, const Batch& batch,
                         RandomValues& random);

}  // namespace shardwright

#endif  // TESTS_PROPERTY_BRIDGE_PROMISES_H_
