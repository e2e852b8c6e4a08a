#include "client/cli/group_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/text_table.h"
#include "proto/plan/group.h"

namespace shardwright {
namespace {

constexpr int kWidth = 100;  // Where there is no terminal.

std::string FormatGroup(const Layout& layout, const Group& group, int width) {
  return absl::StrCat("[", FormatRanks(RanksOf(layout, group), width / 2), "]");
}

// As many groups as fit into `width` columns.
std::string FormatGroupsOfKind(const Layout& layout, const Module& module,
                               const GroupKind& kind, int width) {
  const int64_t count = GroupCount(layout, module, kind);
  std::string text;
  for (int64_t group = 0; group < count; ++group) {
    const std::string next =
        FormatGroup(layout, {&module, &kind, group}, width);
    const bool last = group + 1 == count;
    const int reserve = last ? 0 : 16;  // " and 1234567 more"
    if (group > 0 &&
        static_cast<int>(text.size() + 1 + next.size()) + reserve > width) {
      return absl::StrCat(text, " and ", count - group, " more");
    }
    absl::StrAppend(&text, group == 0 ? "" : " ", next);
  }
  return text;
}

}  // namespace

absl::string_view RoleName(Role role) {
  switch (role) {
    case Role::kEncoder:
      return "encoder";
    case Role::kLanguage:
      return "language";
    case Role::kUnspecified:
      break;
  }
  return "unspecified";
}

std::string FormatRanks(const std::vector<Rank>& ranks, size_t bytes_max) {
  std::string text;
  for (size_t begin = 0; begin < ranks.size();) {
    if (text.size() > bytes_max) return absl::StrCat(text, ",...");
    size_t end = begin + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    absl::StrAppend(&text, begin == 0 ? "" : ",", ranks[begin]);
    if (end - begin > 1) absl::StrAppend(&text, "-", ranks[end - 1]);
    begin = end;
  }
  return text;
}

std::string FormatModule(const Module& module) {
  std::vector<Rank> ranks;
  for (int64_t i = 0; i < module.rank_count(); ++i) {
    ranks.push_back(module.RankAt(i));
  }
  std::string text = absl::StrCat(module.name(), " (", RoleName(module.role()),
                                  "): ranks ", FormatRanks(ranks));
  const Grid& expert = module.expert_grid();
  const std::vector<std::pair<absl::string_view, int64_t>> sizes = {
      {"tp", module.tp()},
      {"gtp_remat", module.gtp_remat()},
      {"cp", module.cp()},
      {"dp", module.dp()},
      {"pp", module.pp()},
      {"ep", expert.size(Dim::kEp)},
      {"expert_tp", expert.size(Dim::kExpertTp)},
      {"expert_gtp_remat", expert.size(Dim::kExpertGtpRemat)}};
  for (const auto& [name, size] : sizes) {
    if (size > 1) absl::StrAppend(&text, ", ", name, " ", size);
  }
  if (module.sequence_parallel()) text += ", sequence parallel";
  return text;
}

std::string FormatGroups(const Layout& layout, const Terminal& terminal) {
  using Align = TextTable::Align;
  std::string text;
  for (const Module& module : layout.modules()) {
    absl::StrAppend(&text, text.empty() ? "" : "\n", FormatModule(module),
                    "\n");
    TextTable table({{"kind"},
                     {"groups", Align::kRight},
                     {"size", Align::kRight},
                     {"ranks"}});
    for (const GroupKind& kind : GroupKinds()) {
      const int64_t count = GroupCount(layout, module, kind);
      if (count == 0) continue;
      const int64_t size = SizeOf(layout, {&module, &kind, 0});
      // The names of kinds have up to 19 letters, and the counts 9 columns
      // each.
      const int width = std::max(terminal.width.value_or(kWidth) - 40, 24);
      table.AddRow({std::string(kind.name), absl::StrCat(count),
                    absl::StrCat(size),
                    FormatGroupsOfKind(layout, module, kind, width)});
    }
    text += table.Format();
  }
  return text;
}

}  // namespace shardwright
