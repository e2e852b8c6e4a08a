// How a module's sizes become its two grids. Internal to layout.

#ifndef PROTO_PLAN_MODULE_GRIDS_H_
#define PROTO_PLAN_MODULE_GRIDS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/plan/grid.h"
#include "proto/plan/layout.h"

namespace shardwright {

inline constexpr absl::string_view kDefaultOrder = "tp-gtp_remat-cp-dp-pp";

struct ModuleGrids {
  Grid base, expert;
};

// The dimensions of the base grid by their names in `order`. `ep` may stand in
// an order but is not among them.
const std::vector<std::pair<absl::string_view, Dim>>& OrderNames();

// The base grid has the dimensions of `order`; the expert view has the same
// with tp -> expert_tp, cp -> ep-expert_gtp_remat, dp -> expert_dp, gtp_remat
// dropped. REQUIRES: sizes that divide `rank_count`, and a valid order.
ModuleGrids MakeGrids(const ModuleSpec& spec, int64_t rank_count);

}  // namespace shardwright

#endif  // PROTO_PLAN_MODULE_GRIDS_H_
