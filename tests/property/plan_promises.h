// What layouts, plans and copy tables promise, checked against slow and obvious
// references that move every row by itself. Property tests ask it of random
// values, fuzz targets of whatever a decoder accepted.
//
// A broken promise is INTERNAL, and the message says which and where. The cost
// grows with the number of ranks, tokens and rows: give small values.

#ifndef TESTS_PROPERTY_PLAN_PROMISES_H_
#define TESTS_PROPERTY_PLAN_PROMISES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "proto/plan/batch.h"
#include "proto/plan/copy_table.h"
#include "proto/plan/layout.h"

namespace shardwright {

// The groups of a kind partition the ranks that take part; all members derive
// the same group, and ranks of one group differ in the kind's dimensions only.
// Any two ranks see the groups that they share in the same order.
absl::Status CheckGroups(const Layout& layout);

// REQUIRES: CheckShape() found nothing for the language module.
// Every language rank's plan is what the definition of sharding says; over the
// ranks of a lane and stage every row is owned once (by tp ranks alike where
// they do not split the sequence); digests are equal; plans survive the wire.
absl::Status CheckShardPlans(const Layout& layout, const BatchShape& shape);

// REQUIRES: CheckBatch() found nothing.
// The same of composed plans, whose table equals aligning and then sharding.
absl::Status CheckComposePlans(const Layout& layout, const Batch& batch);

// The table is in canonical form and survives the wire. Carried out and carried
// back on the host, rows that it names return to where they were bit for bit,
// and the others become zero. Buffers are of exact size, so that a sanitizer
// sees what reads or writes outside.
absl::Status CheckTable(const CopyTable& table, int64_t row_bytes);

}  // namespace shardwright

#endif  // TESTS_PROPERTY_PLAN_PROMISES_H_
