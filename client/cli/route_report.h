// Route plans as text. Pure, and the text is free to change.

#ifndef CLIENT_CLI_ROUTE_REPORT_H_
#define CLIENT_CLI_ROUTE_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/types/span.h"
#include "proto/plan/layout.h"
#include "proto/plan/route_plan.h"

namespace shardwright {

// A line a transfer, which is all that goes between two ranks, and what a
// broadcast to every rank of a lane would have cost. Bytes where those of a row
// are known. REQUIRES: as SummarizeRoute().
std::string FormatRoute(const Layout& layout, absl::Span<const RoutePlan> plans,
                        std::optional<int64_t> row_bytes);

}  // namespace shardwright

#endif  // CLIENT_CLI_ROUTE_REPORT_H_
