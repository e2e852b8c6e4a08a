#include "client/cli/placement_report.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/group_table.h"
#include "client/cli/text_table.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;
using Members = GroupKind::Members;

constexpr absl::string_view kVaries = "*";

absl::string_view DimName(Dim dim) {
  switch (dim) {
    case Dim::kTp:
      return "tp";
    case Dim::kGtpRemat:
      return "gtp_remat";
    case Dim::kCp:
      return "cp";
    case Dim::kDp:
      return "dp";
    case Dim::kPp:
      return "pp";
    case Dim::kEp:
      return "ep";
    case Dim::kExpertTp:
      return "expert_tp";
    case Dim::kExpertGtpRemat:
      return "expert_gtp_remat";
    case Dim::kExpertDp:
      return "expert_dp";
  }
  return "";
}

std::vector<DimensionPlace> PlacesIn(const Grid& grid, int64_t index) {
  std::vector<DimensionPlace> places;
  for (int d = 0; d < kDimCount; ++d) {
    const Dim dim = static_cast<Dim>(d);
    if (grid.size(dim) == 1) continue;
    places.push_back({dim, grid.size(dim), grid.Member({dim}, 0, 1),
                      grid.Coordinate(dim, index)});
  }
  std::sort(places.begin(), places.end(),
            [](const DimensionPlace& a, const DimensionPlace& b) {
              return a.stride < b.stride;
            });
  return places;
}

// Those whose group of that kind holds the rank at `index`.
MembersPlace MembersAround(const Module& module, const GroupKind& kind,
                           int64_t index) {
  MembersPlace place;
  place.module = &module;
  place.first_index = index;
  const Grid& grid = kind.expert_view ? module.expert_grid() : module.grid();
  for (const DimensionPlace& dim : PlacesIn(grid, index)) {
    if (!kind.dims.contains(dim.dim)) continue;
    place.first_index -= dim.coordinate * dim.stride;
    if (kind.members == Members::kFirst) continue;
    const bool ends = kind.members == Members::kFirstAndLast;
    const Axis axis = ends ? Axis{2, dim.stride * (dim.size - 1)}
                           : Axis{dim.size, dim.stride};
    place.size *= axis.count;
    const bool continues =
        !place.axes.empty() &&
        axis.stride == place.axes.back().stride * place.axes.back().count;
    if (continues) {
      place.axes.back().count *= axis.count;
    } else {
      place.axes.push_back(axis);
    }
  }
  return place;
}

GroupPlace PlaceOf(const Layout& layout, const Placement& at,
                   const GroupMembership& membership) {
  GroupPlace place;
  place.group = membership.group;
  place.position = membership.position;
  place.size = SizeOf(layout, membership.group);
  place.own = MembersAround(*at.module, *membership.group.kind, at.index);
  const std::vector<GroupPart> parts = PartsOf(layout, membership.group);
  if (parts.size() == 1) return place;
  for (const auto& [module, kind, index] : parts) {
    const Rank first = module->StridedGroup(*kind, index)[0].first;
    place.parts.push_back(
        MembersAround(*module, *kind, *module->IndexOf(first)));
  }
  return place;
}

const std::vector<DimensionPlace>& PlacesOf(const PlacementReport& report,
                                            const GroupKind& kind) {
  return kind.expert_view ? report.expert : report.base;
}

// Whether the members of a group differ in `dim`.
bool Varies(const GroupKind& kind, Dim dim) {
  return kind.dims.contains(dim) && kind.members != Members::kFirst;
}

Json DimensionsJson(const std::vector<DimensionPlace>& places) {
  Json list = Json::array();
  for (const DimensionPlace& place : places) {
    list.push_back({{"name", DimName(place.dim)},
                    {"size", place.size},
                    {"stride", place.stride},
                    {"coordinate", place.coordinate}});
  }
  return list;
}

// The module's ranks in grid order, as [first, count] runs.
std::vector<Axis> RankRuns(const Module& module) {
  if (module.listed_ranks().empty()) {
    return {{module.rank_count(), module.RankAt(0)}};
  }
  std::vector<Axis> runs;
  for (Rank rank : module.listed_ranks()) {
    if (!runs.empty() && runs.back().stride + runs.back().count == rank) {
      ++runs.back().count;
    } else {
      runs.push_back({1, rank});
    }
  }
  return runs;
}

Json RunsJson(const Module& module) {
  Json runs = Json::array();
  for (const Axis& run : RankRuns(module)) {
    runs.push_back(Json::array({run.stride, run.count}));
  }
  return runs;
}

Json AxesJson(const MembersPlace& members) {
  Json axes = Json::array();
  for (const Axis& axis : members.axes) {
    axes.push_back({{"count", axis.count}, {"stride", axis.stride}});
  }
  return axes;
}

// Null where all members are of the rank's module.
Json PartsJson(const GroupPlace& group) {
  if (group.parts.empty()) return nullptr;
  Json parts = Json::array();
  for (const MembersPlace& part : group.parts) {
    parts.push_back({{"module", part.module->name()},
                     {"rank_runs", RunsJson(*part.module)},
                     {"size", part.size},
                     {"first_index", part.first_index},
                     {"axes", AxesJson(part)}});
  }
  return parts;
}

Json GroupJson(const PlacementReport& report, const GroupPlace& place) {
  const GroupKind& kind = *place.group.kind;
  Json varies = Json::array();
  Json fixed = Json::object();
  for (const DimensionPlace& dimension : PlacesOf(report, kind)) {
    if (Varies(kind, dimension.dim)) {
      varies.push_back(DimName(dimension.dim));
    } else {
      fixed[std::string(DimName(dimension.dim))] = dimension.coordinate;
    }
  }
  return {{"name", place.group.name()},
          {"kind", kind.name},
          {"index", place.group.index},
          {"position", place.position},
          {"size", place.size},
          {"view", kind.expert_view ? "expert" : "base"},
          {"varies", std::move(varies)},
          {"fixed", std::move(fixed)},
          {"first_index", place.own.first_index},
          {"axes", AxesJson(place.own)},
          {"parts", PartsJson(place)}};
}

int64_t IndexOfMember(const MembersPlace& members, int64_t position) {
  int64_t index = members.first_index;
  for (const Axis& axis : members.axes) {
    index += position % axis.count * axis.stride;
    position /= axis.count;
  }
  return index;
}

// "4-5, 8-9, 12-13, ..., 64-65": the first runs and the last.
std::string FormatRanksOf(const MembersPlace& group) {
  constexpr int64_t kRunsMax = 5;
  const Module& module = *group.module;
  const bool runs = module.listed_ranks().empty() && !group.axes.empty() &&
                    group.axes[0].stride == 1;
  const int64_t run_length = runs ? group.axes[0].count : 1;
  const int64_t run_count = group.size / run_length;
  std::string text;
  for (int64_t run = 0; run < run_count; ++run) {
    if (run_count > kRunsMax && run == kRunsMax - 2) {
      text += ", ...";
      run = run_count - 1;
    }
    const Rank first = module.RankAt(IndexOfMember(group, run * run_length));
    absl::StrAppend(&text, run == 0 ? "" : ", ", first);
    if (run_length > 1) absl::StrAppend(&text, "-", first + run_length - 1);
  }
  return text;
}

// "4 + [0,2) + 4*[0,16)"
std::string FormatSum(const MembersPlace& group) {
  const bool listed = !group.module->listed_ranks().empty();
  std::string text = absl::StrCat(
      listed ? group.first_index : group.module->RankAt(group.first_index));
  for (const Axis& axis : group.axes) {
    absl::StrAppend(&text, " + ");
    if (axis.stride > 1) absl::StrAppend(&text, axis.stride, "*");
    absl::StrAppend(&text, "[0,", axis.count, ")");
  }
  return listed ? absl::StrCat("rank at ", text) : text;
}

// What `format` says of the members, part by part.
template <typename Format>
std::string FormatParts(const GroupPlace& group, const Format& format) {
  if (group.parts.empty()) return format(group.own);
  return absl::StrJoin(
      group.parts, "; ", [&](std::string* out, const MembersPlace& part) {
        absl::StrAppend(out, part.module->name(), " ", format(part));
      });
}

std::string FormatArithmetic(const PlacementReport& report,
                             const std::vector<DimensionPlace>& places) {
  using Align = TextTable::Align;
  TextTable table({{"dimension"},
                   {"size", Align::kRight},
                   {"stride", Align::kRight},
                   {"coordinate"}});
  for (const DimensionPlace& place : places) {
    const std::string quotient =
        place.stride == 1 ? absl::StrCat(report.index)
                          : absl::StrCat(report.index, " / ", place.stride);
    table.AddRow(
        {std::string(DimName(place.dim)), absl::StrCat(place.size),
         absl::StrCat(place.stride),
         absl::StrCat(quotient, " mod ", place.size, " = ", place.coordinate)});
  }
  return table.Format();
}

// The cell of a group under a dimension: who takes part.
std::string Pattern(const GroupKind& kind, const DimensionPlace& place) {
  if (!Varies(kind, place.dim)) return absl::StrCat(place.coordinate);
  if (kind.members == Members::kFirstAndLast) {
    return absl::StrCat("0,", place.size - 1);
  }
  return std::string(kVaries);
}

// Groups of one view that have other members than the rank itself.
std::string FormatGroupTable(const PlacementReport& report, bool expert_view,
                             bool wide) {
  using Align = TextTable::Align;
  const std::vector<DimensionPlace>& places =
      expert_view ? report.expert : report.base;
  std::vector<TextTable::Column> columns = {{"group"}, {"size", Align::kRight}};
  if (wide) columns.push_back({"position", Align::kRight});
  for (const DimensionPlace& place : places) {
    columns.push_back({std::string(DimName(place.dim)), Align::kRight});
  }
  columns.push_back({"ranks"});
  if (wide) columns.push_back({"as a sum"});
  TextTable table(std::move(columns));
  int64_t rows = 0;
  for (const GroupPlace& group : report.groups) {
    const GroupKind& kind = *group.group.kind;
    if (kind.expert_view != expert_view || group.size == 1) continue;
    std::vector<std::string> cells = {group.group.name(),
                                      absl::StrCat(group.size)};
    if (wide) cells.push_back(absl::StrCat(group.position));
    for (const DimensionPlace& place : places) {
      cells.push_back(Pattern(kind, place));
    }
    cells.push_back(FormatParts(group, FormatRanksOf));
    if (wide) cells.push_back(FormatParts(group, FormatSum));
    table.AddRow(std::move(cells));
    ++rows;
  }
  return rows == 0 ? "" : table.Format();
}

// "alone in  a, b, c", wrapped.
std::string FormatNames(absl::string_view title,
                        const std::vector<std::string>& names,
                        const Terminal& terminal) {
  const int width = std::max(terminal.width.value_or(80), 40);
  std::string text, line(title);
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string name =
        absl::StrCat(names[i], i + 1 == names.size() ? "" : ",");
    if (static_cast<int>(line.size() + 1 + name.size()) > width) {
      absl::StrAppend(&text, line, "\n");
      line = std::string(title.size(), ' ');
    }
    absl::StrAppend(&line, " ", name);
  }
  return names.empty() ? "" : absl::StrCat(text, line, "\n");
}

}  // namespace

absl::StatusOr<PlacementReport> ReportPlacement(const Layout& layout,
                                                Rank rank) {
  ASSIGN_OR_RETURN(const Placement at, layout.Find(rank));
  PlacementReport report;
  report.layout = &layout;
  report.module = at.module;
  report.rank = rank;
  report.index = at.index;
  report.base = PlacesIn(at.module->grid(), at.index);
  report.expert = PlacesIn(at.module->expert_grid(), at.index);
  for (const GroupMembership& membership : GroupsOf(layout, at)) {
    report.groups.push_back(PlaceOf(layout, at, membership));
  }
  auto next = report.groups.begin();
  for (const GroupKind& kind : GroupKinds()) {
    if (next != report.groups.end() && next->group.kind == &kind) {
      ++next;
    } else if (GroupCount(layout,
                          kind.across_modules ? layout.language() : *at.module,
                          kind) > 0) {
      report.absent.push_back(&kind);
    }
  }
  return report;
}

nlohmann::ordered_json PlacementJson(const PlacementReport& report) {
  Json groups = Json::array();
  for (const GroupPlace& group : report.groups) {
    groups.push_back(GroupJson(report, group));
  }
  Json absent = Json::array();
  for (const GroupKind* kind : report.absent) absent.push_back(kind->name);
  return {{"job", report.layout->name()},
          {"rank", report.rank},
          {"module",
           {{"name", report.module->name()},
            {"role", RoleName(report.module->role())},
            {"rank_count", report.module->rank_count()},
            {"rank_runs", RunsJson(*report.module)}}},
          {"index", report.index},
          {"dimensions", DimensionsJson(report.base)},
          {"expert_dimensions", DimensionsJson(report.expert)},
          {"groups", std::move(groups)},
          {"absent", std::move(absent)}};
}

std::string FormatPlacement(const PlacementReport& report, bool wide,
                            const Terminal& terminal) {
  const Module& module = *report.module;
  std::string text =
      absl::StrCat("rank ", report.rank, " of ", report.layout->name(),
                   " is in ", FormatModule(module), "\n");
  if (module.listed_ranks().empty()) {
    absl::StrAppend(&text, "its index there is ", report.rank, " - ",
                    module.RankAt(0), " = ", report.index, "\n");
  } else {
    absl::StrAppend(&text, "its index there is ", report.index,
                    ", its place in the module's list of ranks\n");
  }
  const std::string groups = FormatGroupTable(report, false, wide);
  if (report.base.empty() && report.expert.empty()) {
    return absl::StrCat(
        text, "the module has no other rank",
        groups.empty() ? ", so it is alone everywhere\n" : "\n\n", groups);
  }
  absl::StrAppend(&text, "\n", FormatArithmetic(report, report.base));
  if (!groups.empty()) absl::StrAppend(&text, "\n", groups);
  const std::string experts = FormatGroupTable(report, true, wide);
  if (!experts.empty()) {
    absl::StrAppend(&text, "\nexpert view\n",
                    FormatArithmetic(report, report.expert), "\n", experts);
  }
  std::vector<std::string> alone;
  for (const GroupPlace& group : report.groups) {
    if (group.size == 1) alone.push_back(group.group.name());
  }
  std::vector<std::string> absent;
  bool not_in_stages = false, not_in_bridge = false;
  for (const GroupKind* kind : report.absent) {
    absent.push_back(std::string(kind->name));
    (kind->across_modules ? not_in_bridge : not_in_stages) = true;
  }
  absl::StrAppend(&text, "\n", kVaries,
                  " varies within the group; a number is the coordinate that "
                  "all its members share\n",
                  FormatNames("alone in", alone, terminal),
                  FormatNames("not in", absent, terminal));
  if (not_in_stages) {
    text +=
        "  pos_embd is for the first pipeline stage, embd for the last too\n";
  }
  if (not_in_bridge) {
    text +=
        "  bridge is for the language module's first pipeline stage, and for "
        "the\n  last of each encoder that an edge leaves\n";
  }
  return text;
}

}  // namespace shardwright
