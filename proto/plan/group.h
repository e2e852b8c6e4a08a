// The groups of a layout's ranks, of all kinds. Most are of one module, which
// knows them (layout.h). The bridge's has ranks of several: the language
// module's first pipeline stage, then the last stage of each encoder that has
// an edge, in the order of the modules: that of the edges means nothing. A
// stage is the module's group of kind "tp_dp_cp", in its order. The bridge
// bears the language module's name, "language/bridge/0", and is only where the
// layout has edges.
//
// Who asks for a group, or for a rank's groups, asks here. Like the layout,
// nothing is stored: what a group is costs the same however many ranks it has,
// until these are asked for one by one.

#ifndef PROTO_PLAN_GROUP_H_
#define PROTO_PLAN_GROUP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/plan/layout.h"

namespace shardwright {

// One group of a layout, which outlives it.
struct Group {
  const Module* module = nullptr;  // Whose name it bears.
  const GroupKind* kind = nullptr;
  int64_t index = 0;  // Which of the module's groups of that kind.

  // That of its clique: "language/tp/3".
  std::string name() const;
};

// A group that a rank is in.
struct GroupMembership {
  Group group;
  int64_t position = 0;  // The rank's group rank.
};

// Ranks of one module that follow each other in a group: the module's group
// `index` of `kind`, by whose arithmetic they are found.
struct GroupPart {
  const Module* module = nullptr;
  const GroupKind* kind = nullptr;
  int64_t index = 0;
};

// How many groups of the kind bear the module's name: 0 if it has none.
int64_t GroupCount(const Layout& layout, const Module& module,
                   const GroupKind& kind);

// Nothing if the layout has no group of that name.
std::optional<Group> FindGroup(const Layout& layout, absl::string_view name);

// One part, but for the bridge: one a stage.
std::vector<GroupPart> PartsOf(const Layout& layout, const Group& group);

// All members in group order; how many; and as few strides as there are parts,
// unless modules list their ranks one by one.
std::vector<Rank> RanksOf(const Layout& layout, const Group& group);
int64_t SizeOf(const Layout& layout, const Group& group);
std::vector<Strided> StridedRanksOf(const Layout& layout, const Group& group);

// The groups that a rank is in, in the order in which communicators are
// created, which is that of GroupKinds().
std::vector<GroupMembership> GroupsOf(const Layout& layout,
                                      const Placement& at);

}  // namespace shardwright

#endif  // PROTO_PLAN_GROUP_H_
