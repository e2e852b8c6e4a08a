// The kinds of process groups that a layout has: those that Megatron-Core's
// MIMO topology creates in each module, under the names of `shardctl layout
// groups`, and "bridge", which is Shardwright's own.

#ifndef PROTO_PLAN_GROUP_KIND_H_
#define PROTO_PLAN_GROUP_KIND_H_

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/plan/grid.h"

namespace shardwright {

struct GroupKind {
  // Which members of the group over `dims` take part.
  enum class Members {
    kAll,
    kFirstAndLast,  // Stages that share the word embeddings.
    kFirst,         // The stage with the position embeddings.
  };

  absl::string_view name;
  DimSet dims;
  bool expert_view = false;  // `dims` are of the expert grid.
  Members members = Members::kAll;
  bool language_only = false;  // Encoders have no such groups.

  // Ranks of several modules, as group.h says; `dims` are those of each stage.
  bool across_modules = false;
};

// All kinds, in the order in which communicators are created.
absl::Span<const GroupKind> GroupKinds();

// nullptr if there is no such kind.
const GroupKind* FindGroupKind(absl::string_view name);

}  // namespace shardwright

#endif  // PROTO_PLAN_GROUP_KIND_H_
