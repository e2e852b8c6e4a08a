// A Layout says which ranks of a job belong to which module of the model, and
// how each module arranges its ranks.
//
// Invariants, checked once in Create() and true for the object's whole life:
//   1. The modules' ranks are disjoint and together exactly [0, world_size).
//   2. There is exactly one language module; names are unique.
//   3. A module's sizes multiply to its number of ranks, in the base view and
//   in
//      the expert view; with expert parallelism both have the same pp groups.
//   4. Edges go from encoders that exist to the language module.
// The rules are those of Megatron-Core's MIMO topology (create_topology,
// ModuleGridSpec), and stricter where it is silent. Accepted besides: data
// parallel sizes that do not divide one another, context parallelism on the
// language side, ranks that are not contiguous.
//
// Group ranks follow the grid. Where a module lists its ranks one by one, the
// order of that list is the order of the grid.

#ifndef PROTO_PLAN_LAYOUT_H_
#define PROTO_PLAN_LAYOUT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/plan/grid.h"
#include "proto/plan/group_kind.h"
#include "proto/plan/problem.h"

namespace shardwright {

// Ranks are global: 0 <= rank < world_size.
using Rank = int64_t;

inline constexpr int64_t kWorldSizeMax = int64_t{1} << 24;
inline constexpr int kModuleCountMax = 64;

enum class Role { kUnspecified, kEncoder, kLanguage };

// What a user writes; nothing in it has been checked.
struct ModuleSpec {
  std::string name;
  Role role = Role::kUnspecified;
  std::optional<int64_t> first_rank, rank_count;
  std::vector<Rank> ranks;
  std::optional<int64_t> tp, gtp_remat, cp, pp, ep, expert_tp, expert_gtp_remat;
  bool sequence_parallel = false;
  std::string order;
};
struct EdgeSpec {
  std::string from, to;
};
struct LayoutSpec {
  std::string name;
  int64_t world_size = 0;
  std::vector<ModuleSpec> modules;
  std::vector<EdgeSpec> edges;
};

// Where a rank stands in its module's grid.
struct Coordinates {
  int64_t tp = 0, gtp_remat = 0, cp = 0, dp = 0, pp = 0;
  int64_t lane = 0;  // dp * gtp_remat_size + gtp_remat
};

// One module of a valid layout. Immutable.
class Module {
 public:
  // REQUIRES: `spec` has passed Layout::Check().
  explicit Module(ModuleSpec spec);

  const std::string& name() const { return spec_.name; }
  Role role() const { return spec_.role; }
  bool sequence_parallel() const { return spec_.sequence_parallel; }
  const ModuleSpec& spec() const { return spec_; }

  const Grid& grid() const { return grid_; }
  const Grid& expert_grid() const { return expert_grid_; }

  int64_t rank_count() const { return grid_.count(); }
  int64_t tp() const { return grid_.size(Dim::kTp); }
  int64_t cp() const { return grid_.size(Dim::kCp); }
  int64_t pp() const { return grid_.size(Dim::kPp); }
  int64_t dp() const { return grid_.size(Dim::kDp); }
  int64_t gtp_remat() const { return grid_.size(Dim::kGtpRemat); }

  // Replicas that have data of their own: dp * gtp_remat.
  int64_t lane_count() const { return dp() * gtp_remat(); }

  // REQUIRES: 0 <= index < rank_count().
  Rank RankAt(int64_t index) const {
    return listed_.empty() ? first_rank_ + index : listed_[index];
  }
  // The ranks in grid order, where they are not simply consecutive.
  const std::vector<Rank>& listed_ranks() const { return listed_; }
  // Nothing if the rank is not of this module.
  std::optional<int64_t> IndexOf(Rank rank) const;

  // REQUIRES: 0 <= index < rank_count().
  Coordinates CoordinatesAt(int64_t index) const;
  // The inverse; `coordinates.lane` follows from the others and is not read.
  // REQUIRES: each coordinate is below its size.
  int64_t IndexAt(const Coordinates& coordinates) const;

  // Whether the module has groups of this kind by itself: what follows does not
  // know of groups that have ranks of several modules. group.h has them all.
  bool Has(const GroupKind& kind) const {
    return !kind.across_modules &&
           (!kind.language_only || role() == Role::kLanguage);
  }
  // REQUIRES: Has(kind), and 0 <= group < GroupCount(kind).
  int64_t GroupCount(const GroupKind& kind) const;
  std::vector<Rank> Group(const GroupKind& kind, int64_t group) const;
  // The same, put one after the other: one where the module's ranks are
  // consecutive, however many members the group has.
  std::vector<Strided> StridedGroup(const GroupKind& kind, int64_t group) const;
  // The group that holds the rank at `index`; nothing if it takes no part.
  std::optional<int64_t> GroupOf(const GroupKind& kind, int64_t index) const;
  // Its group rank there. REQUIRES: it takes part.
  int64_t PositionOf(const GroupKind& kind, int64_t index) const;

 private:
  const Grid& GridOf(const GroupKind& kind) const {
    return kind.expert_view ? expert_grid_ : grid_;
  }
  // Indexes of the members.
  Strided GroupIndexes(const GroupKind& kind, int64_t group) const;

  ModuleSpec spec_;
  Grid grid_, expert_grid_;
  Rank first_rank_ = 0;
  std::vector<Rank> listed_;       // Empty: contiguous from first_rank_.
  std::vector<uint64_t> by_rank_;  // If listed: ListedRanks, ascending.
};

// A rank's place: its module, and its index in that module's grid.
struct Placement {
  const Module* module = nullptr;
  int64_t index = 0;
};

// Immutable, cheap to move, safe to share between threads.
class Layout {
 public:
  // Errors:
  //   INVALID_ARGUMENT INVALID_LAYOUT: all problems at once, as violations.
  static absl::StatusOr<Layout> Create(LayoutSpec spec);

  // The same check, with the problems whole. Empty: Create() will succeed.
  static Problems Check(const LayoutSpec& spec);

  const std::string& name() const { return name_; }
  int64_t world_size() const { return world_size_; }
  const std::vector<Module>& modules() const { return modules_; }
  const std::vector<EdgeSpec>& edges() const { return edges_; }
  const Module& language() const { return modules_[language_]; }

  // nullptr if there is no module of that name.
  const Module* FindModule(absl::string_view name) const;

  // Errors:
  //   NOT_FOUND RANK_NOT_FOUND: the message says which ranks there are.
  absl::StatusOr<Placement> Find(Rank rank) const;

  // 64-bit fingerprint of all but the name, with defaults filled in: equal for
  // layouts that mean the same, on every host and build. Pinned by a test.
  uint64_t digest() const { return digest_; }

 private:
  std::string name_;
  int64_t world_size_ = 0;
  std::vector<Module> modules_;
  std::vector<EdgeSpec> edges_;
  int language_ = 0;
  uint64_t digest_ = 0;
};

}  // namespace shardwright

#endif  // PROTO_PLAN_LAYOUT_H_
