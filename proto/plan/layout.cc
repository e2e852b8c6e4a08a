#include "proto/plan/layout.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "proto/plan/fingerprint.h"
#include "proto/plan/module_grids.h"
#include "proto/plan/rank_order.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

bool IsContiguous(const std::vector<Rank>& ranks) {
  for (size_t i = 1; i < ranks.size(); ++i) {
    if (ranks[i] != ranks[i - 1] + 1) return false;
  }
  return true;
}

// Ranks in any order, as runs of equal distance.
std::vector<Strided> ToStrided(const std::vector<Rank>& ranks) {
  std::vector<Strided> runs;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i + 1;
    while (end < ranks.size() &&
           ranks[end] - ranks[end - 1] == ranks[i + 1] - ranks[i]) {
      ++end;
    }
    Strided& run = runs.emplace_back();
    run.first = ranks[i];
    if (end - i > 1) {
      run.dimensions.push_back(
          {static_cast<int64_t>(end - i), ranks[i + 1] - ranks[i]});
    }
    i = end;
  }
  return runs;
}

// Dimensions of size 1 do not place anybody, so they are left out.
void AddGrid(const Grid& grid, Fingerprint& fingerprint) {
  std::vector<std::tuple<int64_t, int, int64_t>> dims;  // stride, dim, size
  for (int d = 0; d < kDimCount; ++d) {
    const Dim dim = static_cast<Dim>(d);
    if (grid.size(dim) > 1) {
      dims.emplace_back(grid.Member({dim}, 0, 1), d, grid.size(dim));
    }
  }
  std::sort(dims.begin(), dims.end());
  fingerprint.Add(dims.size());
  for (const auto& [stride, dim, size] : dims) {
    fingerprint.Add(dim);
    fingerprint.Add(size);
  }
}

uint64_t DigestOf(const Layout& layout) {
  Fingerprint fingerprint;
  fingerprint.Add(layout.world_size());
  fingerprint.Add(layout.modules().size());
  for (const Module& module : layout.modules()) {
    fingerprint.Add(module.name());
    fingerprint.Add(module.role() == Role::kLanguage ? 1 : 0);
    fingerprint.Add(module.sequence_parallel() ? 1 : 0);
    AddGrid(module.grid(), fingerprint);
    AddGrid(module.expert_grid(), fingerprint);
    fingerprint.Add(module.rank_count());
    fingerprint.Add(module.RankAt(0));
    for (Rank rank : module.listed_ranks()) fingerprint.Add(rank);
  }
  std::vector<std::pair<std::string, std::string>> edges;
  for (const EdgeSpec& edge : layout.edges()) {
    edges.emplace_back(edge.from, edge.to);
  }
  std::sort(edges.begin(), edges.end());
  for (const auto& [from, to] : edges) {
    fingerprint.Add(from);
    fingerprint.Add(to);
  }
  return fingerprint.digest();
}

}  // namespace

Module::Module(ModuleSpec spec) : spec_(std::move(spec)) {
  const int64_t rank_count = spec_.ranks.empty()
                                 ? *spec_.rank_count
                                 : static_cast<int64_t>(spec_.ranks.size());
  ModuleGrids grids = MakeGrids(spec_, rank_count);
  grid_ = std::move(grids.base);
  expert_grid_ = std::move(grids.expert);
  if (spec_.ranks.empty() || IsContiguous(spec_.ranks)) {
    first_rank_ = spec_.ranks.empty() ? *spec_.first_rank : spec_.ranks[0];
    return;
  }
  listed_ = spec_.ranks;
  by_rank_ = InOrder(listed_);
}

std::optional<int64_t> Module::IndexOf(Rank rank) const {
  if (listed_.empty()) {
    if (rank < first_rank_ || rank - first_rank_ >= rank_count()) {
      return std::nullopt;
    }
    return rank - first_rank_;
  }
  if (rank < 0 || rank >= kWorldSizeMax) return std::nullopt;
  const auto found = std::lower_bound(by_rank_.begin(), by_rank_.end(),
                                      PackListedRank(rank, /*index=*/0));
  if (found == by_rank_.end() || RankOf(*found) != rank) return std::nullopt;
  return shardwright::IndexOf(*found);
}

Coordinates Module::CoordinatesAt(int64_t index) const {
  Coordinates at;
  at.tp = grid_.Coordinate(Dim::kTp, index);
  at.gtp_remat = grid_.Coordinate(Dim::kGtpRemat, index);
  at.cp = grid_.Coordinate(Dim::kCp, index);
  at.dp = grid_.Coordinate(Dim::kDp, index);
  at.pp = grid_.Coordinate(Dim::kPp, index);
  at.lane = at.dp * gtp_remat() + at.gtp_remat;
  return at;
}

int64_t Module::IndexAt(const Coordinates& coordinates) const {
  const std::pair<Dim, int64_t> places[] = {
      {Dim::kTp, coordinates.tp},
      {Dim::kGtpRemat, coordinates.gtp_remat},
      {Dim::kCp, coordinates.cp},
      {Dim::kDp, coordinates.dp},
      {Dim::kPp, coordinates.pp}};
  int64_t index = 0;
  for (const auto& [dim, coordinate] : places) {
    if (coordinate > 0) index += grid_.Member({dim}, 0, coordinate);
  }
  return index;
}

int64_t Module::GroupCount(const GroupKind& kind) const {
  return GridOf(kind).GroupCount(kind.dims);
}

Strided Module::GroupIndexes(const GroupKind& kind, int64_t group) const {
  const Grid& grid = GridOf(kind);
  Strided members = grid.Group(kind.dims, group);
  if (kind.members == GroupKind::Members::kAll || members.size() == 1) {
    return members;
  }
  const int64_t last =
      grid.Member(kind.dims, group, grid.GroupSize(kind.dims) - 1);
  members.dimensions.clear();
  if (kind.members == GroupKind::Members::kFirstAndLast) {
    members.dimensions.push_back({2, last - members.first});
  }
  return members;
}

std::vector<Rank> Module::Group(const GroupKind& kind, int64_t group) const {
  std::vector<Rank> ranks;
  GroupIndexes(kind, group).AppendTo(ranks);
  for (Rank& rank : ranks) rank = RankAt(rank);
  return ranks;
}

std::vector<Strided> Module::StridedGroup(const GroupKind& kind,
                                          int64_t group) const {
  if (!listed_.empty()) return ToStrided(Group(kind, group));
  Strided members = GroupIndexes(kind, group);
  members.first += first_rank_;
  return {std::move(members)};
}

std::optional<int64_t> Module::GroupOf(const GroupKind& kind,
                                       int64_t index) const {
  const Grid& grid = GridOf(kind);
  const int64_t position = grid.PositionOf(kind.dims, index);
  const bool takes_part = kind.members == GroupKind::Members::kAll ||
                          position == 0 ||
                          (kind.members == GroupKind::Members::kFirstAndLast &&
                           position == grid.GroupSize(kind.dims) - 1);
  if (!Has(kind) || !takes_part) return std::nullopt;
  return grid.GroupOf(kind.dims, index);
}

int64_t Module::PositionOf(const GroupKind& kind, int64_t index) const {
  const int64_t position = GridOf(kind).PositionOf(kind.dims, index);
  // Of the first and the last only these two are left.
  return kind.members == GroupKind::Members::kAll
             ? position
             : std::min(position, int64_t{1});
}

absl::StatusOr<Layout> Layout::Create(LayoutSpec spec) {
  const absl::Status valid = ProblemsToStatus("INVALID_LAYOUT", Check(spec));
  if (!valid.ok()) return valid;
  Layout layout;
  layout.name_ = std::move(spec.name);
  layout.world_size_ = spec.world_size;
  layout.edges_ = std::move(spec.edges);
  for (ModuleSpec& module : spec.modules) {
    if (module.role == Role::kLanguage) {
      layout.language_ = static_cast<int>(layout.modules_.size());
    }
    layout.modules_.emplace_back(std::move(module));
  }
  layout.digest_ = DigestOf(layout);
  return layout;
}

const Module* Layout::FindModule(absl::string_view name) const {
  for (const Module& module : modules_) {
    if (module.name() == name) return &module;
  }
  return nullptr;
}

absl::StatusOr<Placement> Layout::Find(Rank rank) const {
  for (const Module& module : modules_) {
    if (const std::optional<int64_t> index = module.IndexOf(rank)) {
      return Placement{&module, *index};
    }
  }
  return Error(absl::StatusCode::kNotFound, "RANK_NOT_FOUND",
               absl::StrCat("rank ", rank, " is not in [0, ", world_size_,
                            "), the ranks of layout '", name_, "'"),
               {{"rank", absl::StrCat(rank)}});
}

}  // namespace shardwright
