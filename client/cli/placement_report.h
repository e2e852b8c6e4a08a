// Why a rank is in each of its groups: the arithmetic that leads from the
// rank's number to its coordinates, and from those to groups. From the layout
// alone, and pure; the time does not grow with the number of ranks.

#ifndef CLIENT_CLI_PLACEMENT_REPORT_H_
#define CLIENT_CLI_PLACEMENT_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cli/terminal.h"
#include "nlohmann/json.hpp"
#include "proto/plan/group.h"
#include "proto/plan/layout.h"

namespace shardwright {

// One dimension of a grid, of more than one rank, and where a rank stands:
// coordinate = index / stride % size.
struct DimensionPlace {
  Dim dim = Dim::kTp;
  int64_t size = 1;
  int64_t stride = 1;
  int64_t coordinate = 0;
};

// `count` indexes at distance `stride`.
struct Axis {
  int64_t count = 1;
  int64_t stride = 1;
};

// Members of a group that are of one module. Their indexes there are
// first_index plus any multiple, below its count, of each axis' stride; the
// first axis is fastest.
struct MembersPlace {
  const Module* module = nullptr;
  int64_t size = 1;
  int64_t first_index = 0;
  std::vector<Axis> axes;  // As few as possible.
};

// A group that a rank is in.
struct GroupPlace {
  Group group;
  int64_t position = 0;  // The rank's group rank.
  int64_t size = 1;
  MembersPlace own;  // Those of the rank's module.
  // Where several modules have members: all, in group order. Else empty.
  std::vector<MembersPlace> parts;
};

struct PlacementReport {
  const Layout* layout = nullptr;
  const Module* module = nullptr;
  Rank rank = 0;
  int64_t index = 0;                     // In the module.
  std::vector<DimensionPlace> base;      // Fastest first.
  std::vector<DimensionPlace> expert;    // The same of the expert view.
  std::vector<GroupPlace> groups;        // In order of creation.
  std::vector<const GroupKind*> absent;  // Kinds whose groups it is not in.
};

// `layout` outlives the report. Errors: NOT_FOUND RANK_NOT_FOUND.
absl::StatusOr<PlacementReport> ReportPlacement(const Layout& layout,
                                                Rank rank);

nlohmann::ordered_json PlacementJson(const PlacementReport& report);

// `wide` spells members out as sums of strides.
std::string FormatPlacement(const PlacementReport& report, bool wide,
                            const Terminal& terminal);

}  // namespace shardwright

#endif  // CLIENT_CLI_PLACEMENT_REPORT_H_
