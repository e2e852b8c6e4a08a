#include "client/cli/clique_report.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/cli/member_table.h"
#include "client/cli/text_table.h"
#include "proto/status/error.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;
using Align = TextTable::Align;

// An IDLE clique has only the number that its next attempt will get.
bool HasAttempt(const v1::CliqueSummary& clique) {
  return clique.state() != v1::CliqueSummary::IDLE &&
         clique.attempt().number() != 0;
}

std::string KindName(v1::MemberKind kind) {
  return absl::AsciiStrToLower(v1::MemberKind_Name(kind));
}

// "17-19,40 and more (120 ranks)"
std::string FormatSet(const v1::MemberSet& set) {
  if (!set.truncated()) return OrDash(set.ranges());
  return absl::StrFormat("%s and more (%d ranks)", set.ranges(),
                         set.rank_count());
}

// What the clique waits for, by its state.
std::string WaitsFor(const v1::CliqueSummary& clique) {
  const int64_t waits = clique.member_count() - clique.done_count();
  const auto some = [&](const char* what) {
    return absl::StrFormat(
        "attempt %d waits for %d of %d %ss%s", clique.attempt().number(), waits,
        clique.member_count(), KindName(clique.kind()), what);
  };
  switch (clique.state()) {
    case v1::CliqueSummary::IDLE:
      return absl::StrFormat("no %s asks for it now", KindName(clique.kind()));
    case v1::CliqueSummary::GATHERING:
      return some(" to come");
    case v1::CliqueSummary::EXCHANGING:
      return some(" to publish their addresses");
    case v1::CliqueSummary::CONNECTING:
      return some(" to connect to the others");
    case v1::CliqueSummary::ACTIVE:
      return absl::StrFormat("all %d %ss are connected, in attempt %d",
                             clique.member_count(), KindName(clique.kind()),
                             clique.attempt().number());
    default:
      return "";
  }
}

// Of a member that has not asked. A process that was killed lives on until its
// lease ends; that it misses renewals, which come three a lease, tells. Half a
// lease: one renewal may be late.
std::string AdviceOnLiving(const v1::Member& member, const std::string& clique,
                           absl::Time now) {
  const absl::Time end = FromProto(member.expire_time());
  const int64_t left = std::max<int64_t>(
      0, absl::ToInt64Seconds(absl::Ceil(end - now, absl::Seconds(1))));
  constexpr absl::string_view kLook =
      "    look at host and log: may have died, or hang";
  if (!member.has_last_seen_time()) {
    return absl::StrCat(
        "not heard from since the coordinator started, and "
        "the lease ends in ",
        left, " s;\n", kLook);
  }
  const absl::Time seen = FromProto(member.last_seen_time());
  if (now - seen > (end - seen) / 2) {
    return absl::StrCat("not heard from for ", absl::ToInt64Seconds(now - seen),
                        " s, and the lease ends in ", left, " s;\n", kLook);
  }
  if (member.phase() == absl::StrCat("forming ", clique)) {
    return "lives, and is about to ask for this clique";
  }
  if (member.phase() == "ready") {  // What workers are when nothing is to do.
    return "lives, and has not asked for this clique;\n"
           "    ready without it, so started with other --kinds";
  }
  return absl::StrCat("lives, and has not asked for this clique;\n    busy",
                      member.phase().empty()
                          ? ""
                          : absl::StrCat(" with '", member.phase(), "'"),
                      ", or started with other --kinds");
}

// Why a member keeps the clique waiting, and what somebody can do about it. Of
// several members at once, so not "it".
std::string Advice(const v1::CliqueMember& member, const std::string& clique,
                   absl::Time now) {
  switch (member.state()) {
    case v1::CliqueMember::GAVE_UP:
      return "came, and the own timeout has passed;\n"
             "    comes again without help, or the log says why not";
    case v1::CliqueMember::OWES_SLOT:
      return "was told to begin, and has published no address;\n"
             "    look at the log: hangs, or was stopped";
    case v1::CliqueMember::OWES_REPORT:
      return "has all addresses, and has not reported success;\n"
             "    look at the network between the hosts, and at the log";
    default:
      break;
  }
  switch (member.member().state()) {
    case v1::Member::UNREGISTERED:
      return "no process has registered;\n"
             "    start it, or look at why it did not start";
    case v1::Member::LOST:
      return "the lease ran out: died, hangs, or cannot reach the "
             "coordinator;\n    look at host and log, and start again";
    case v1::Member::LEFT:
      return "left in good order;\n    start again";
    default:
      return AdviceOnLiving(member.member(), clique, now);
  }
}

// A paragraph for each thing to do, with the ranks that it is about.
std::string FormatAdvice(const v1::CliqueExplanation& explanation,
                         absl::Time now) {
  std::vector<std::string> order;
  std::map<std::string, std::vector<int64_t>> ranks_by_advice;
  for (const v1::CliqueMember& member : explanation.members()) {
    if (!member.blocking()) continue;
    const std::string advice = Advice(member, explanation.clique().name(), now);
    std::vector<int64_t>& ranks = ranks_by_advice[advice];
    if (ranks.empty()) order.push_back(advice);
    ranks.push_back(member.member().member().rank());
  }
  std::string text;
  for (const std::string& advice : order) {
    std::vector<int64_t>& ranks = ranks_by_advice[advice];
    std::sort(ranks.begin(), ranks.end());
    absl::StrAppend(&text, text.empty() ? "\nwhat to do\n" : "", "  ",
                    ranks.size() == 1 ? "rank " : "ranks ",
                    FormatSet(CompressRanks(ranks, /*bytes_max=*/60)), ": ",
                    advice, "\n");
  }
  return text;
}

}  // namespace

nlohmann::ordered_json CliqueJson(const v1::CliqueSummary& clique) {
  Json json = {{"name", clique.name()},
               {"kind", v1::MemberKind_Name(clique.kind())},
               {"state", v1::CliqueSummary::State_Name(clique.state())},
               {"term", nullptr},
               {"attempt", nullptr},
               {"backend", nullptr},
               {"done_count", clique.done_count()},
               {"member_count", clique.member_count()},
               {"missing", nullptr},
               {"last_abort_reason", TextOrNull(clique.last_abort_reason())},
               {"last_abort_message", TextOrNull(clique.last_abort_message())}};
  if (HasAttempt(clique)) {
    json["term"] = clique.attempt().term();
    json["attempt"] = clique.attempt().number();
  }
  if (clique.backend() != v1::COMM_BACKEND_UNSPECIFIED) {
    json["backend"] = v1::CommBackend_Name(clique.backend());
  }
  const v1::MemberSet& missing = clique.missing();
  if (missing.rank_count() > 0) {
    json["missing"] = {{"ranges", missing.ranges()},
                       {"rank_count", missing.rank_count()},
                       {"truncated", missing.truncated()},
                       {"report", TextOrNull(missing.report())}};
  }
  return json;
}

nlohmann::ordered_json CliqueExplanationJson(
    const std::string& job, const v1::CliqueExplanation& explanation) {
  Json members = Json::array();
  for (const v1::CliqueMember& member : explanation.members()) {
    members.push_back({{"position", member.position()},
                       {"state", v1::CliqueMember::State_Name(member.state())},
                       {"blocking", member.blocking()},
                       {"member", MemberJson(member.member())}});
  }
  return {{"job", job},
          {"generation", explanation.generation()},
          {"clique", CliqueJson(explanation.clique())},
          {"members", std::move(members)}};
}

std::string FormatCliques(const std::vector<v1::CliqueSummary>& cliques,
                          bool wide, const Terminal& terminal) {
  std::vector<TextTable::Column> columns = {{"CLIQUE"},
                                            {"MEMBERS"},
                                            {"STATE"},
                                            {"ATTEMPT", Align::kRight},
                                            {"DONE", Align::kRight},
                                            {"WAITS FOR RANKS"}};
  if (wide) {
    columns.insert(columns.end(), {{"BACKEND"}, {"LAST ATTEMPT ENDED"}});
  }
  TextTable table(std::move(columns));
  for (const v1::CliqueSummary& clique : cliques) {
    std::vector<std::string> cells = {
        clique.name(),
        KindName(clique.kind()) + "s",
        FormatState(v1::CliqueSummary::State_Name(clique.state()), terminal),
        HasAttempt(clique) ? absl::StrCat(clique.attempt().number()) : "-",
        absl::StrCat(clique.done_count(), "/", clique.member_count()),
        FormatSet(clique.missing())};
    if (wide) {
      cells.push_back(v1::CommBackend_Name(clique.backend()));
      cells.push_back(clique.last_abort_reason().empty()
                          ? "-"
                          : absl::StrCat(clique.last_abort_reason(), ": ",
                                         clique.last_abort_message()));
    }
    table.AddRow(std::move(cells));
  }
  return table.Format();
}

bool AppendPage(const v1::CliqueExplanation& page,
                v1::CliqueExplanation& explanation) {
  const v1::Attempt& before = explanation.clique().attempt();
  const v1::Attempt& now = page.clique().attempt();
  if (page.generation() != explanation.generation() ||
      now.term() != before.term() || now.number() != before.number()) {
    return false;
  }
  explanation.mutable_members()->MergeFrom(page.members());
  explanation.set_next_page_token(page.next_page_token());
  return true;
}

std::string FormatCliqueExplanation(const v1::CliqueExplanation& explanation,
                                    int members_max, absl::Time now,
                                    const Terminal& terminal) {
  const v1::CliqueSummary& clique = explanation.clique();
  std::string text = absl::StrFormat(
      "%s is %s: %s\n", clique.name(),
      FormatState(v1::CliqueSummary::State_Name(clique.state()), terminal),
      WaitsFor(clique));
  if (!clique.last_abort_reason().empty()) {
    absl::StrAppend(&text, "the attempt before it ended with ",
                    clique.last_abort_reason(), ": ",
                    clique.last_abort_message(), "\n");
  }
  if (explanation.members().empty()) return text;
  TextTable table({{"RANK", Align::kRight},
                   {"DID"},
                   {"BLOCKS"},
                   {"STATE"},
                   {"PHASE"},
                   {"HOST"},
                   {"LAST SEEN"}});
  const int shown = std::min(members_max, explanation.members_size());
  for (int i = 0; i < shown; ++i) {
    const v1::CliqueMember& member = explanation.members(i);
    const v1::Member& process = member.member();
    table.AddRow(
        {absl::StrCat(process.member().rank()),
         FormatState(v1::CliqueMember::State_Name(member.state()), terminal),
         member.blocking() ? "yes" : "no",
         FormatState(v1::Member::State_Name(process.state()), terminal),
         OrDash(process.phase()), OrDash(process.facts().host()),
         FormatAge(process.has_last_seen_time(), process.last_seen_time())});
  }
  absl::StrAppend(&text, "\n", table.Format());
  if (shown < explanation.members_size()) {
    absl::StrAppend(&text, "and ", explanation.members_size() - shown,
                    " more; -o wide shows all\n");
  }
  return text + FormatAdvice(explanation, now);
}

}  // namespace shardwright
