#include "proto/plan/module_grids.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_split.h"

namespace shardwright {

const std::vector<std::pair<absl::string_view, Dim>>& OrderNames() {
  static const auto* const names =
      new std::vector<std::pair<absl::string_view, Dim>>{
          {"tp", Dim::kTp}, {"gtp_remat", Dim::kGtpRemat},
          {"cp", Dim::kCp}, {"dp", Dim::kDp},
          {"pp", Dim::kPp},
      };
  return *names;
}

ModuleGrids MakeGrids(const ModuleSpec& spec, int64_t rank_count) {
  const int64_t tp = spec.tp.value_or(1);
  const int64_t gtp_remat = spec.gtp_remat.value_or(1);
  const int64_t cp = spec.cp.value_or(1);
  const int64_t pp = spec.pp.value_or(1);
  const int64_t ep = spec.ep.value_or(1);
  const int64_t expert_tp = spec.expert_tp.value_or(1);
  const int64_t expert_gtp_remat = spec.expert_gtp_remat.value_or(1);
  const int64_t dp = rank_count / (tp * gtp_remat * cp * pp);
  const int64_t expert_dp =
      rank_count / (expert_tp * ep * expert_gtp_remat * pp);

  std::string order(spec.order.empty() ? kDefaultOrder : spec.order);
  // A dimension left out has size 1 in the base grid; in the expert view its
  // counterpart may be larger, and then is the slowest.
  for (const auto& [name, dim] : OrderNames()) {
    const std::vector<absl::string_view> names = absl::StrSplit(order, '-');
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      order += '-';
      order += std::string(name);
    }
  }
  std::vector<std::pair<Dim, int64_t>> base, expert;
  for (absl::string_view name : absl::StrSplit(order, '-')) {
    if (name == "tp") {
      base.emplace_back(Dim::kTp, tp);
      expert.emplace_back(Dim::kExpertTp, expert_tp);
    } else if (name == "gtp_remat") {
      base.emplace_back(Dim::kGtpRemat, gtp_remat);
    } else if (name == "cp") {
      base.emplace_back(Dim::kCp, cp);
      expert.emplace_back(Dim::kEp, ep);
      expert.emplace_back(Dim::kExpertGtpRemat, expert_gtp_remat);
    } else if (name == "dp") {
      base.emplace_back(Dim::kDp, dp);
      expert.emplace_back(Dim::kExpertDp, expert_dp);
    } else if (name == "pp") {
      base.emplace_back(Dim::kPp, pp);
      expert.emplace_back(Dim::kPp, pp);
    }
  }
  return {Grid(std::move(base)), Grid(std::move(expert))};
}

}  // namespace shardwright
