// Schemes of context parallelism side by side, as JSON and as text with bars.
// Pure.

#ifndef CLIENT_CLI_COMPARISON_H_
#define CLIENT_CLI_COMPARISON_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/cli/terminal.h"
#include "coordinator/planner/balance.h"
#include "nlohmann/json.hpp"

namespace shardwright {

// One pack, and the sizes to cut it for. REQUIRES of the functions below that
// CheckPack() finds nothing for any of them.
struct Comparison {
  std::vector<int64_t> lengths;
  int64_t tp = 1;
  std::vector<int64_t> cps;
};

nlohmann::ordered_json ComparisonJson(const Comparison& comparison);

// A line a size and scheme; `wide` adds the numbers behind the ratios.
std::string FormatComparison(const Comparison& comparison, bool wide,
                             const Terminal& terminal);

}  // namespace shardwright

#endif  // CLIENT_CLI_COMPARISON_H_
