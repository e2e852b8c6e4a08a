#include "proto/plan/group.h"

#include <algorithm>
#include <utility>

#include "proto/plan/clique_name.h"

namespace shardwright {
namespace {

const GroupKind& StageKind() {
  static const GroupKind& kind = *FindGroupKind("tp_dp_cp");
  return kind;
}

// Members of one part: all groups of a kind have as many.
int64_t SizeOf(const GroupPart& part) {
  if (part.kind->members != GroupKind::Members::kAll) {
    return static_cast<int64_t>(
        part.module->Group(*part.kind, part.index).size());
  }
  return part.module->rank_count() / part.module->GroupCount(*part.kind);
}

// The group of the kind that the rank is in, and its position.
std::optional<GroupMembership> Find(const Layout& layout, const GroupKind& kind,
                                    const Placement& at) {
  if (!kind.across_modules) {
    const std::optional<int64_t> index = at.module->GroupOf(kind, at.index);
    if (!index.has_value()) return std::nullopt;
    return GroupMembership{{at.module, &kind, *index},
                           at.module->PositionOf(kind, at.index)};
  }
  const Group group = {&layout.language(), &kind, 0};
  int64_t before = 0;
  for (const GroupPart& part : PartsOf(layout, group)) {
    if (part.module == at.module &&
        part.module->GroupOf(*part.kind, at.index) == part.index) {
      return GroupMembership{
          group, before + part.module->PositionOf(*part.kind, at.index)};
    }
    before += SizeOf(part);
  }
  return std::nullopt;
}

}  // namespace

std::string Group::name() const {
  return FormatCliqueName({module->name(), std::string(kind->name), index});
}

int64_t GroupCount(const Layout& layout, const Module& module,
                   const GroupKind& kind) {
  if (kind.across_modules) {
    return &module == &layout.language() && !layout.edges().empty() ? 1 : 0;
  }
  return module.Has(kind) ? module.GroupCount(kind) : 0;
}

std::optional<Group> FindGroup(const Layout& layout, absl::string_view name) {
  const std::optional<CliqueName> parsed = ParseCliqueName(name);
  if (!parsed.has_value()) return std::nullopt;
  const Module* module = layout.FindModule(parsed->module);
  const GroupKind* kind = FindGroupKind(parsed->kind);
  if (module == nullptr || kind == nullptr ||
      parsed->index >= GroupCount(layout, *module, *kind)) {
    return std::nullopt;
  }
  return Group{module, kind, parsed->index};
}

std::vector<GroupPart> PartsOf(const Layout& layout, const Group& group) {
  if (!group.kind->across_modules) {
    return {{group.module, group.kind, group.index}};
  }
  std::vector<GroupPart> parts;
  // A layout without edges has no such group.
  if (layout.edges().empty()) return parts;
  parts.push_back({&layout.language(), &StageKind(), 0});
  for (const Module& module : layout.modules()) {
    const auto leaves = [&](const EdgeSpec& edge) {
      return edge.from == module.name();
    };
    if (std::any_of(layout.edges().begin(), layout.edges().end(), leaves)) {
      parts.push_back({&module, &StageKind(), module.pp() - 1});
    }
  }
  return parts;
}

std::vector<Rank> RanksOf(const Layout& layout, const Group& group) {
  std::vector<Rank> ranks;
  for (const GroupPart& part : PartsOf(layout, group)) {
    const std::vector<Rank> members =
        part.module->Group(*part.kind, part.index);
    ranks.insert(ranks.end(), members.begin(), members.end());
  }
  return ranks;
}

int64_t SizeOf(const Layout& layout, const Group& group) {
  int64_t size = 0;
  for (const GroupPart& part : PartsOf(layout, group)) size += SizeOf(part);
  return size;
}

std::vector<Strided> StridedRanksOf(const Layout& layout, const Group& group) {
  std::vector<Strided> all;
  for (const GroupPart& part : PartsOf(layout, group)) {
    for (Strided& ranks : part.module->StridedGroup(*part.kind, part.index)) {
      all.push_back(std::move(ranks));
    }
  }
  return all;
}

std::vector<GroupMembership> GroupsOf(const Layout& layout,
                                      const Placement& at) {
  std::vector<GroupMembership> memberships;
  for (const GroupKind& kind : GroupKinds()) {
    if (auto membership = Find(layout, kind, at)) {
      memberships.push_back(*std::move(membership));
    }
  }
  return memberships;
}

}  // namespace shardwright
