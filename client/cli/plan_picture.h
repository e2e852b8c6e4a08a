// Draws plans for people: a line a rank, the sequence from left to right, and
// beside it the numbers. Pure, and the text is free to change.

#ifndef CLIENT_CLI_PLAN_PICTURE_H_
#define CLIENT_CLI_PLAN_PICTURE_H_

#include <string>
#include <vector>

#include "client/cli/terminal.h"
#include "proto/plan/batch.h"
#include "proto/plan/layout.h"
#include "proto/plan/shard_plan.h"

namespace shardwright {

// Plans of ranks of `layout.language()` for micro-batches of one shape.
//
// The sequence takes what the terminal leaves beside the numbers, or 72 columns
// where there is no terminal; each slice of it gets whole columns if it can.
std::string DrawShardPlans(const Layout& layout, const BatchShape& shape,
                           const std::vector<ShardPlan>& plans,
                           const Terminal& terminal);

// Plans from PlanCompose(): a letter for the source that each part comes from,
// and a line a sample.
std::string DrawComposePlans(const Layout& layout, const Batch& batch,
                             const std::vector<ShardPlan>& plans,
                             const Terminal& terminal);

}  // namespace shardwright

#endif  // CLIENT_CLI_PLAN_PICTURE_H_
