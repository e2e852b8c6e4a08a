// Layout::Check(): every rule of layout.h, each broken one as a problem with
// the arithmetic that shows it.

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "proto/plan/layout.h"
#include "proto/plan/module_grids.h"
#include "proto/plan/rank_order.h"

namespace shardwright {
namespace {

// Above what any order of all dimensions needs.
constexpr size_t kOrderBytesMax = 64;

// One size of a module by its field name.
struct NamedSize {
  absl::string_view name;
  int64_t size;
};

// Consecutive ranks [first, last] of one module.
struct Span {
  Rank first, last;
  size_t module;
};

bool IsValidName(absl::string_view name) {
  const auto allowed = [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-' ||
           c == '_' || c == '.';
  };
  return !name.empty() && name.size() <= 63 && name[0] != '-' &&
         name[0] != '_' && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), allowed);
}

// "rank 3 <singular>" or "ranks 3-5 <plural>".
std::string RanksThat(Rank first, Rank last, absl::string_view singular,
                      absl::string_view plural) {
  return first == last ? absl::StrCat("rank ", first, " ", singular)
                       : absl::StrCat("ranks ", first, "-", last, " ", plural);
}

// The sizes are at most kWorldSizeMax, so that two of them cannot overflow; a
// product that has passed the bound stays there.
int64_t BoundedProduct(const std::vector<NamedSize>& sizes) {
  int64_t product = 1;
  for (const NamedSize& named : sizes) {
    product = std::min(product * named.size, kWorldSizeMax + 1);
  }
  return product;
}

class LayoutChecker {
 public:
  explicit LayoutChecker(const LayoutSpec& spec) : spec_(spec) {}

  Problems Check() && {
    if (!CheckCounts()) return std::move(problems_);
    if (!IsValidName(spec_.name)) AddNameProblem("name", spec_.name);
    if (spec_.world_size < 1 || spec_.world_size > kWorldSizeMax) {
      Add("world_size", absl::StrCat("world_size=", spec_.world_size,
                                     " is not in [1, ", kWorldSizeMax, "]"));
      spans_known_ = false;
    }
    CheckModuleList();
    for (size_t i = 0; i < spec_.modules.size(); ++i) CheckModule(i);
    if (spans_known_) CheckCoverage();
    for (size_t i = 0; i < spec_.edges.size(); ++i) CheckEdge(i);
    return std::move(problems_);
  }

 private:
  void Add(std::string field, std::string description, std::string hint = "") {
    AddProblem(problems_, std::move(field), std::move(description),
               std::move(hint));
  }

  // False: there are so many of something that the rest would cost too much.
  bool CheckCounts() {
    const size_t modules = spec_.modules.size();
    if (modules > kModuleCountMax) {
      Add("modules", absl::StrCat(modules, " modules are not in [1, ",
                                  kModuleCountMax, "]"));
    }
    // Every module but one has at most one edge, to the language module.
    if (spec_.edges.size() >= kModuleCountMax) {
      Add("edges", absl::StrCat(spec_.edges.size(), " edges are above ",
                                kModuleCountMax - 1));
    }
    return problems_.empty();
  }

  void AddNameProblem(std::string field, const std::string& name) {
    Add(std::move(field),
        name.empty() ? "is missing"
                     : absl::StrCat(QuoteName(name), " is not a valid name"),
        "1 to 63 of a-z, 0-9, '-', '_', '.', beginning with a letter or digit");
  }

  static std::string Path(size_t module, absl::string_view field) {
    return absl::StrCat("modules[", module, "].", field);
  }

  void CheckModuleList() {
    const size_t count = spec_.modules.size();
    if (count < 1) {
      Add("modules",
          absl::StrCat("0 modules are not in [1, ", kModuleCountMax, "]"));
      spans_known_ = false;
    }
    std::vector<std::string> languages;
    std::map<std::string, size_t> first_with_name;
    for (size_t i = 0; i < count; ++i) {
      const ModuleSpec& module = spec_.modules[i];
      if (module.role == Role::kLanguage) {
        languages.push_back(module.name.substr(0, 80));
      }
      const auto [first, is_new] = first_with_name.emplace(module.name, i);
      if (!is_new && !module.name.empty()) {
        Add(Path(i, "name"),
            absl::StrCat(QuoteName(module.name), " is the name of modules[",
                         first->second, "] already"));
      }
    }
    if (count > 0 && languages.size() != 1) {
      Add("modules",
          absl::StrCat("there must be exactly one module with role LANGUAGE, "
                       "and there are ",
                       languages.size(), languages.empty() ? "" : ": ",
                       absl::StrJoin(languages, ", ")),
          languages.empty() ? "give one module role: LANGUAGE" : "");
    }
  }

  void CheckModule(size_t i) {
    const ModuleSpec& module = spec_.modules[i];
    if (!IsValidName(module.name)) AddNameProblem(Path(i, "name"), module.name);
    if (module.role == Role::kUnspecified) {
      Add(Path(i, "role"), "is missing", "ENCODER or LANGUAGE");
    }
    const bool sizes_valid = CheckSizes(i);
    const int64_t rank_count = CheckRanks(i);
    if (sizes_valid && rank_count > 0) CheckGrids(i, rank_count);
  }

  bool CheckSizes(size_t i) {
    const ModuleSpec& m = spec_.modules[i];
    const std::pair<absl::string_view, std::optional<int64_t>> sizes[] = {
        {"tp", m.tp},
        {"gtp_remat", m.gtp_remat},
        {"cp", m.cp},
        {"pp", m.pp},
        {"ep", m.ep},
        {"expert_tp", m.expert_tp},
        {"expert_gtp_remat", m.expert_gtp_remat},
    };
    bool valid = true;
    for (const auto& [name, size] : sizes) {
      if (!size.has_value() || (*size >= 1 && *size <= kWorldSizeMax)) continue;
      Add(Path(i, absl::StrCat("parallelism.", name)),
          absl::StrCat(name, "=", *size, " is not in [1, ", kWorldSizeMax, "]"),
          *size == 0 ? "leave it out for 1" : "");
      valid = false;
    }
    return valid;
  }

  // Notes which ranks the module has. Returns how many; 0 if that is not clear.
  int64_t CheckRanks(size_t i) {
    const ModuleSpec& module = spec_.modules[i];
    const bool span = module.first_rank.has_value() || module.rank_count;
    if (span != module.ranks.empty()) {
      Add(Path(i, span ? "ranks" : "first_rank"),
          span ? "ranks and first_rank, rank_count exclude each other"
               : "the module has no ranks",
          "give first_rank and rank_count, or a list of ranks");
      spans_known_ = false;
      return 0;
    }
    return span ? CheckRankSpan(i) : CheckRankList(i);
  }

  int64_t CheckRankSpan(size_t i) {
    const ModuleSpec& module = spec_.modules[i];
    if (!module.first_rank || !module.rank_count) {
      Add(Path(i, module.first_rank ? "rank_count" : "first_rank"),
          "is missing", "first_rank and rank_count go together");
      spans_known_ = false;
      return 0;
    }
    const int64_t count = *module.rank_count;
    if (count < 1 || count > kWorldSizeMax) {
      Add(Path(i, "rank_count"),
          absl::StrCat("rank_count=", count, " is not in [1, ", kWorldSizeMax,
                       "]"));
      spans_known_ = false;
      return 0;
    }
    const Rank first = *module.first_rank;
    if (first < 0 || first >= kWorldSizeMax) {
      Add(Path(i, "first_rank"),
          absl::StrCat("first_rank=", first, " is not in [0, ", kWorldSizeMax,
                       ")"));
      spans_known_ = false;
      return count;
    }
    spans_.push_back({first, first + count - 1, i});
    return count;
  }

  int64_t CheckRankList(size_t i) {
    const std::vector<Rank>& ranks = spec_.modules[i].ranks;
    const auto path = [i](size_t at) {
      return Path(i, absl::StrCat("ranks[", at, "]"));
    };
    const std::vector<ListedRank> sorted = InOrder(ranks);
    if (sorted.size() < ranks.size()) {
      spans_known_ = false;
      for (size_t k = 0; k < ranks.size(); ++k) {
        if (ranks[k] >= 0 && ranks[k] < kWorldSizeMax) continue;
        Add(path(k), absl::StrCat("rank ", ranks[k], " is not in [0, ",
                                  kWorldSizeMax, ")"));
      }
    }
    Rank before = -2;  // No rank follows it.
    for (size_t k = 0; k < sorted.size(); ++k) {
      const Rank rank = RankOf(sorted[k]);
      if (rank == before) {
        Add(path(IndexOf(sorted[k])),
            absl::StrCat("rank ", rank, " is listed twice, first as ranks[",
                         IndexOf(sorted[k - 1]), "]"));
      } else if (rank == before + 1) {
        spans_.back().last = rank;
      } else {
        spans_.push_back({rank, rank, i});
      }
      before = rank;
    }
    return static_cast<int64_t>(ranks.size());
  }

  void CheckGrids(size_t i, int64_t rank_count) {
    const ModuleSpec& m = spec_.modules[i];
    const int64_t pp = m.pp.value_or(1);
    const bool base_divides =
        CheckDivides(i, rank_count,
                     {{"tp", m.tp.value_or(1)},
                      {"gtp_remat", m.gtp_remat.value_or(1)},
                      {"cp", m.cp.value_or(1)},
                      {"pp", pp}});
    const std::vector<NamedSize> expert = {
        {"expert_tp", m.expert_tp.value_or(1)},
        {"ep", m.ep.value_or(1)},
        {"expert_gtp_remat", m.expert_gtp_remat.value_or(1)},
        {"pp", pp}};
    const bool has_experts = BoundedProduct(expert) > pp;
    // Without experts the rule follows from the one above.
    const bool expert_divides =
        !has_experts || CheckDivides(i, rank_count, expert);
    if (!base_divides || !expert_divides || !CheckOrder(i, rank_count)) return;
    if (!has_experts || pp == 1) return;
    const ModuleGrids grids = MakeGrids(m, rank_count);
    const int64_t base_stride = grids.base.Member({Dim::kPp}, 0, 1);
    const int64_t expert_stride = grids.expert.Member({Dim::kPp}, 0, 1);
    if (base_stride != expert_stride) {
      Add(Path(i, "parallelism.order"),
          absl::StrCat("the pp groups of both views must be the same, and "
                       "pipeline stages are ",
                       base_stride, " ranks apart in the base view but ",
                       expert_stride, " in the expert view"),
          "put pp last");
    }
  }

  bool CheckDivides(size_t i, int64_t rank_count,
                    const std::vector<NamedSize>& sizes) {
    const int64_t product = BoundedProduct(sizes);
    if (product <= kWorldSizeMax && rank_count % product == 0) return true;
    const std::string names =
        absl::StrJoin(sizes, "*", [](std::string* out, const NamedSize& s) {
          absl::StrAppend(out, s.name);
        });
    const std::string values =
        absl::StrJoin(sizes, "*", [](std::string* out, const NamedSize& s) {
          absl::StrAppend(out, s.size);
        });
    const bool too_large = product > kWorldSizeMax;
    const int64_t next = (rank_count / product + 1) * product;
    Add(Path(i, spec_.modules[i].ranks.empty() ? "rank_count" : "ranks"),
        absl::StrCat("rank_count=", rank_count, " must divide by ", names,
                     " = ", values, too_large ? ", which is above " : " = ",
                     too_large ? kWorldSizeMax : product),
        too_large ? ""
                  : absl::StrCat("next valid rank_count is ", next, " (+",
                                 next - rank_count, ")"));
    return false;
  }

  bool CheckOrder(size_t i, int64_t rank_count) {
    const ModuleSpec& m = spec_.modules[i];
    const std::string path = Path(i, "parallelism.order");
    if (m.order.size() > kOrderBytesMax) {
      Add(path, absl::StrCat("has ", m.order.size(), " bytes, above ",
                             kOrderBytesMax));
      return false;
    }
    std::vector<std::string> known = {"ep"};
    for (const auto& [name, dim] : OrderNames()) known.emplace_back(name);
    bool valid = true;
    std::vector<std::string> seen;
    if (!m.order.empty()) seen = absl::StrSplit(m.order, '-');
    for (auto name = seen.begin(); name != seen.end(); ++name) {
      if (std::find(known.begin(), known.end(), *name) == known.end()) {
        Add(path,
            absl::StrCat("'", *name, "' in '", m.order,
                         "' is not a dimension of the base view"),
            DidYouMean(*name, known));
        valid = false;
      } else if (std::find(seen.begin(), name, *name) != name) {
        Add(path,
            absl::StrCat("'", *name, "' stands twice in '", m.order, "'"));
        return false;  // No grid has such dimensions.
      }
    }
    return CheckOrderIsWhole(m, rank_count, seen, path) && valid;
  }

  bool CheckOrderIsWhole(const ModuleSpec& m, int64_t rank_count,
                         const std::vector<std::string>& seen,
                         const std::string& path) {
    if (m.order.empty()) return true;
    bool valid = true;
    const Grid grid = MakeGrids(m, rank_count).base;
    for (const auto& [name, dim] : OrderNames()) {
      if (grid.size(dim) > 1 &&
          std::find(seen.begin(), seen.end(), name) == seen.end()) {
        Add(path,
            absl::StrCat("'", m.order, "' leaves out ", name,
                         ", whose size is ", grid.size(dim), " and not 1"));
        valid = false;
      }
    }
    return valid;
  }

  // The spans must tile [0, world_size).
  void CheckCoverage() {
    std::sort(spans_.begin(), spans_.end(), [](const Span& a, const Span& b) {
      return std::tie(a.first, a.module) < std::tie(b.first, b.module);
    });
    Rank next = 0;  // The first rank that no span so far reaches.
    size_t owner = 0;
    for (const Span& span : spans_) {
      if (span.first > next) AddGap(next, span.first - 1);
      if (span.first < next) {
        AddOverlap(owner, span.module, span.first,
                   std::min(span.last, next - 1));
      }
      if (span.last >= spec_.world_size) {
        Add(Path(span.module, RankField(span.module)),
            absl::StrCat(QuoteName(spec_.modules[span.module].name), " has ",
                         RanksThat(std::max(span.first, spec_.world_size),
                                   span.last, "which is", "which are"),
                         " outside [0, world_size=", spec_.world_size, ")"));
      }
      if (span.last >= next) {
        next = span.last + 1;
        owner = span.module;
      }
    }
    if (next < spec_.world_size) AddGap(next, spec_.world_size - 1);
  }

  absl::string_view RankField(size_t module) const {
    return spec_.modules[module].ranks.empty() ? "first_rank" : "ranks";
  }

  void AddGap(Rank first, Rank last) {
    const Rank inside = std::min(last, spec_.world_size - 1);
    if (first > inside) return;
    Add("world_size",
        absl::StrCat(RanksThat(first, inside, "belongs", "belong"),
                     " to no module; the modules must cover [0, ",
                     spec_.world_size, ")"));
  }

  void AddOverlap(size_t a, size_t b, Rank first, Rank last) {
    Add(Path(b, RankField(b)),
        absl::StrCat(RanksThat(first, last, "belongs", "belong"), " to both ",
                     QuoteName(spec_.modules[a].name), " and ",
                     QuoteName(spec_.modules[b].name)),
        "modules on the same ranks (colocated) are not supported");
  }

  void CheckEdge(size_t i) {
    const EdgeSpec& edge = spec_.edges[i];
    const std::string path = absl::StrCat("edges[", i, "]");
    std::vector<std::string> names;
    for (const ModuleSpec& module : spec_.modules) names.push_back(module.name);
    const auto check_end = [&](absl::string_view field,
                               const std::string& name) {
      if (std::find(names.begin(), names.end(), name) != names.end()) return;
      Add(absl::StrCat(path, ".", field),
          name.empty() ? "is missing"
                       : absl::StrCat("there is no module ", QuoteName(name)),
          DidYouMean(name, names));
    };
    check_end("from", edge.from);
    check_end("to", edge.to);
    if (!edge.from.empty() && edge.from == edge.to) {
      Add(absl::StrCat(path, ".to"),
          absl::StrCat(QuoteName(edge.to), " cannot be joined to itself"));
    } else {
      CheckEdgeRoles(edge, path);
    }
    for (size_t k = 0; k < i; ++k) {
      if (spec_.edges[k].from == edge.from && spec_.edges[k].to == edge.to) {
        Add(path, absl::StrCat("is the same as edges[", k, "]"));
        break;
      }
    }
  }

  void CheckEdgeRoles(const EdgeSpec& edge, const std::string& path) {
    for (const ModuleSpec& module : spec_.modules) {
      if (module.name == edge.from && module.role == Role::kLanguage) {
        Add(absl::StrCat(path, ".from"),
            absl::StrCat(QuoteName(edge.from),
                         " is the language module, and rows "
                         "go from encoders to it"),
            "swap from and to");
      } else if (module.name == edge.to && module.role == Role::kEncoder) {
        Add(absl::StrCat(path, ".to"),
            absl::StrCat(QuoteName(edge.to),
                         " is an encoder, and rows go to the "
                         "language module"));
      }
    }
  }

  const LayoutSpec& spec_;
  Problems problems_;
  std::vector<Span> spans_;
  bool spans_known_ = true;  // False: some module's ranks are not clear.
};

}  // namespace

Problems Layout::Check(const LayoutSpec& spec) {
  return LayoutChecker(spec).Check();
}

}  // namespace shardwright
