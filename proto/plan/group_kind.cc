#include "proto/plan/group_kind.h"

namespace shardwright {

absl::Span<const GroupKind> GroupKinds() {
  using Members = GroupKind::Members;
  constexpr bool kExpert = true;
  static constexpr GroupKind kKinds[] = {
      {"tp", {Dim::kTp}},
      {"cp", {Dim::kCp}},
      {"pp", {Dim::kPp}},
      {"dp", {Dim::kDp}},
      {"gtp_remat", {Dim::kGtpRemat}},
      {"dp_cp", {Dim::kDp, Dim::kCp}},
      {"gtp_remat_dp_cp", {Dim::kGtpRemat, Dim::kDp, Dim::kCp}},
      {"tp_cp", {Dim::kTp, Dim::kCp}},
      {"mp", {Dim::kTp, Dim::kGtpRemat, Dim::kPp}},
      {"tp_dp", {Dim::kTp, Dim::kGtpRemat, Dim::kDp}},
      {"tp_dp_cp", {Dim::kTp, Dim::kGtpRemat, Dim::kDp, Dim::kCp}},
      {"intra_dist_opt",
       {Dim::kTp, Dim::kGtpRemat, Dim::kCp, Dim::kDp, Dim::kPp}},
      {"ep", {Dim::kEp}, kExpert},
      {"expert_tp", {Dim::kExpertTp}, kExpert},
      {"expert_gtp_remat", {Dim::kExpertGtpRemat}, kExpert},
      {"expert_dp", {Dim::kExpertDp}, kExpert},
      {"tp_ep", {Dim::kExpertTp, Dim::kEp}, kExpert},
      {"tp_ep_pp", {Dim::kExpertTp, Dim::kEp, Dim::kPp}, kExpert},
      {"tp_ep_gtp_remat_pp",
       {Dim::kExpertTp, Dim::kEp, Dim::kExpertGtpRemat, Dim::kPp},
       kExpert},
      {"expert_gtp_remat_dp", {Dim::kExpertGtpRemat, Dim::kExpertDp}, kExpert},
      {"embd", {Dim::kPp}, !kExpert, Members::kFirstAndLast, true},
      {"pos_embd", {Dim::kPp}, !kExpert, Members::kFirst, true},
      {"bridge",
       {Dim::kTp, Dim::kGtpRemat, Dim::kDp, Dim::kCp},
       !kExpert,
       Members::kAll,
       true,
       /*across_modules=*/true},
  };
  return kKinds;
}

const GroupKind* FindGroupKind(absl::string_view name) {
  for (const GroupKind& kind : GroupKinds()) {
    if (kind.name == name) return &kind;
  }
  return nullptr;
}

}  // namespace shardwright
