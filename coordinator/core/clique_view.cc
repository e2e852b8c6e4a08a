// Cliques for people: how far each is, and who blocks it.

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "coordinator/core/clique_table.h"
#include "coordinator/core/page.h"
#include "proto/plan/clique_name.h"
#include "proto/plan/group.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

v1::CliqueSummary::State StateOf(const Clique& clique) {
  switch (clique.phase) {
    case Clique::Phase::kGathering:
      return clique.present_count == 0 ? v1::CliqueSummary::IDLE
                                       : v1::CliqueSummary::GATHERING;
    case Clique::Phase::kExchanging:
      return v1::CliqueSummary::EXCHANGING;
    case Clique::Phase::kConnecting:
      return v1::CliqueSummary::CONNECTING;
    case Clique::Phase::kActive:
      return v1::CliqueSummary::ACTIVE;
  }
  return v1::CliqueSummary::STATE_UNSPECIFIED;
}

v1::MemberKind KindOf(const v1::ExplainCliqueRequest& request) {
  return request.kind() == v1::TRAINER ? v1::TRAINER : v1::WORKER;
}

v1::CliqueMember::State StateOf(const Clique& clique, const Clique::Seat& seat,
                                bool blocking) {
  switch (clique.phase) {
    case Clique::Phase::kGathering:
      if (!blocking) return v1::CliqueMember::PRESENT;
      return seat.gave_up ? v1::CliqueMember::GAVE_UP
                          : v1::CliqueMember::ABSENT;
    case Clique::Phase::kExchanging:
      return blocking ? v1::CliqueMember::OWES_SLOT : v1::CliqueMember::PRESENT;
    case Clique::Phase::kConnecting:
      return blocking ? v1::CliqueMember::OWES_REPORT
                      : v1::CliqueMember::CONNECTED;
    case Clique::Phase::kActive:
      return v1::CliqueMember::CONNECTED;
  }
  return v1::CliqueMember::STATE_UNSPECIFIED;
}

}  // namespace

absl::StatusOr<IdleClique> IdleClique::Create(
    const JobLayout& job, const v1::ExplainCliqueRequest& request) {
  const Layout& layout = *job.layout;
  const std::string& text = request.clique();
  const auto not_found = [&](absl::string_view why) {
    return Error(
        absl::StatusCode::kNotFound, "CLIQUE_NOT_FOUND",
        absl::StrCat("\"", text, "\" is no clique of job ", layout.name(), ": ",
                     why, "; a clique is MODULE/KIND/INDEX"));
  };
  const std::optional<CliqueName> name = ParseCliqueName(text);
  const Module* module =
      name.has_value() ? layout.FindModule(name->module) : nullptr;
  if (module == nullptr) {
    return not_found(
        absl::StrCat("its modules are ",
                     absl::StrJoin(layout.modules(), ", ",
                                   [](std::string* out, const Module& m) {
                                     absl::StrAppend(out, m.name());
                                   })));
  }
  const GroupKind* group_kind = FindGroupKind(name->kind);
  const int64_t count =
      group_kind == nullptr ? 0 : GroupCount(layout, *module, *group_kind);
  if (count == 0) {
    std::vector<absl::string_view> kinds;
    for (const GroupKind& kind : GroupKinds()) {
      if (GroupCount(layout, *module, kind) > 0) kinds.push_back(kind.name);
    }
    return not_found(absl::StrCat("the kinds of ", module->name(), " are ",
                                  absl::StrJoin(kinds, ", ")));
  }
  if (name->index < 0 || name->index >= count) {
    return not_found(absl::StrCat(name->module, "/", name->kind,
                                  " has indexes 0 to ", count - 1));
  }
  const Group group = {module, group_kind, name->index};
  RETURN_IF_ERROR(Clique::CheckSize(layout, group));
  IdleClique idle;
  ASSIGN_OR_RETURN(idle.after, NumberFromPageToken(request.page_token()));
  idle.generation = job.generation();
  idle.clique = Clique(layout, KindOf(request), group);
  idle.clique.Missing();
  return idle;
}

v1::CliqueSummary CliqueTable::Summary(const Clique& clique) const {
  const WaitedFor& missing = clique.Missing();
  v1::CliqueSummary summary;
  summary.set_name(clique.name);
  summary.set_kind(clique.kind);
  summary.set_state(StateOf(clique));
  *summary.mutable_attempt() = AttemptOf(clique);
  summary.set_backend(clique.backend);
  summary.set_done_count(clique.ranks.size() - missing.ranks.size());
  summary.set_member_count(clique.ranks.size());
  *summary.mutable_missing() =
      missing.set.truncated() ? WithReport(clique, missing) : missing.set;
  summary.set_last_abort_reason(clique.last_abort_reason);
  summary.set_last_abort_message(clique.last_abort_message);
  return summary;
}

absl::StatusOr<v1::ListCommunicatorsResponse> CliqueTable::List(
    const v1::ListCommunicatorsRequest& request) const {
  CliqueKey after = {request.job(), v1::MEMBER_KIND_UNSPECIFIED, ""};
  if (!request.page_token().empty()) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(request.page_token(), absl::MaxSplits('/', 1));
    v1::MemberKind kind;
    if (!v1::MemberKind_Parse(parts.first, &kind)) {
      return InvalidPageToken(request.page_token());
    }
    after = {request.job(), kind, parts.second};
  }
  const int page_size = PageSize(request.page_size());
  v1::ListCommunicatorsResponse response;
  for (auto it = cliques_.upper_bound(after);
       it != cliques_.end() && std::get<0>(it->first) == request.job(); ++it) {
    const Clique& clique = it->second;
    if (request.only_inactive() && clique.phase == Phase::kActive) continue;
    if (response.cliques_size() == page_size) {
      const v1::CliqueSummary& last = response.cliques(page_size - 1);
      response.set_next_page_token(
          absl::StrCat(v1::MemberKind_Name(last.kind()), "/", last.name()));
      break;
    }
    *response.add_cliques() = Summary(clique);
  }
  return response;
}

v1::CliqueExplanation CliqueTable::Explain(
    const v1::ExplainCliqueRequest& request, const IdleClique& idle) const {
  const auto found =
      cliques_.find({request.job(), KindOf(request), request.clique()});
  const Clique& clique = found == cliques_.end() ? idle.clique : found->second;
  const std::vector<Rank>& missing = clique.Missing().ranks;
  v1::CliqueExplanation response;
  *response.mutable_clique() = Summary(clique);
  response.set_generation(idle.generation);
  const int page_size = PageSize(request.page_size());
  const int64_t member_count = clique.ranks.size();
  for (int64_t i = std::min(idle.after, member_count) + 1; i < member_count;
       ++i) {
    const Rank rank = clique.ranks[i];
    const bool blocking =
        std::binary_search(missing.begin(), missing.end(), rank);
    if (request.only_blocking() && !blocking) continue;
    if (response.members_size() == page_size) {
      response.set_next_page_token(
          absl::StrCat(response.members(page_size - 1).position()));
      break;
    }
    v1::CliqueMember& member = *response.add_members();
    member.set_position(i);
    *member.mutable_member() = membership_.Get({clique.job, rank, clique.kind});
    member.set_state(StateOf(clique, clique.seats[i], blocking));
    member.set_blocking(blocking);
  }
  return response;
}

}  // namespace shardwright
