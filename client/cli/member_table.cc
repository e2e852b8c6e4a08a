#include "client/cli/member_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cli/text_table.h"
#include "client/json/plan_json.h"
#include "google/protobuf/util/time_util.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;
using Align = TextTable::Align;
using google::protobuf::util::TimeUtil;

Json TimeJson(bool known, const google::protobuf::Timestamp& time) {
  return known ? Json(TimeUtil::ToString(time)) : Json();
}

}  // namespace

absl::StatusOr<std::vector<v1::Member>> ListMembers(
    const CoordinatorClient& client, const std::string& job) {
  std::vector<v1::Member> members;
  v1::ListMembersRequest request;
  request.set_job(job);
  do {
    ASSIGN_OR_RETURN(const v1::ListMembersResponse response,
                     client.ListMembers(request));
    members.insert(members.end(), response.members().begin(),
                   response.members().end());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return members;
}

Json MemberJson(const v1::Member& member) {
  return {
      {"rank", member.member().rank()},
      {"kind", v1::MemberKind_Name(member.member().kind())},
      {"state", v1::Member::State_Name(member.state())},
      {"phase", TextOrNull(member.phase())},
      {"host", TextOrNull(member.facts().host())},
      {"pid", member.facts().pid() == 0 ? Json() : Json(member.facts().pid())},
      {"address", TextOrNull(member.facts().address())},
      {"device", TextOrNull(member.facts().device())},
      {"comm_backend", TextOrNull(member.facts().comm_backend())},
      {"incarnation", member.incarnation() == 0
                          ? Json()
                          : Json(DigestText(member.incarnation()))},
      {"expire_time", TimeJson(member.has_expire_time(), member.expire_time())},
      {"last_seen_time",
       TimeJson(member.has_last_seen_time(), member.last_seen_time())}};
}

Json MembersJson(const std::vector<v1::Member>& members) {
  Json list = Json::array();
  for (const v1::Member& member : members) list.push_back(MemberJson(member));
  return list;
}

std::string FormatMembers(const std::vector<v1::Member>& members, bool wide,
                          const Terminal& terminal) {
  std::vector<TextTable::Column> columns = {{"RANK", Align::kRight},
                                            {"KIND"},
                                            {"STATE"},
                                            {"PHASE"},
                                            {"HOST"},
                                            {"LAST SEEN"}};
  if (wide) {
    columns.insert(columns.end(), {{"PID", Align::kRight},
                                   {"ADDRESS"},
                                   {"DEVICE"},
                                   {"BACKEND"},
                                   {"INCARNATION"},
                                   {"LEASE ENDS"}});
  }
  TextTable table(std::move(columns));
  for (const v1::Member& member : members) {
    const v1::MemberFacts& facts = member.facts();
    std::vector<std::string> cells = {
        absl::StrCat(member.member().rank()),
        v1::MemberKind_Name(member.member().kind()),
        FormatState(v1::Member::State_Name(member.state()), terminal),
        OrDash(member.phase()),
        OrDash(facts.host()),
        FormatAge(member.has_last_seen_time(), member.last_seen_time())};
    if (wide) {
      cells.insert(
          cells.end(),
          {absl::StrCat(facts.pid()), OrDash(facts.address()),
           OrDash(facts.device()), OrDash(facts.comm_backend()),
           DigestText(member.incarnation()),
           member.has_expire_time() ? TimeUtil::ToString(member.expire_time())
                                    : "-"});
    }
    table.AddRow(std::move(cells));
  }
  return table.Format();
}

std::string FormatAge(bool known, const google::protobuf::Timestamp& time) {
  if (!known) return "-";
  const absl::Time then = absl::FromUnixSeconds(time.seconds());
  const int64_t seconds =
      std::max<int64_t>(0, absl::ToInt64Seconds(absl::Now() - then));
  if (seconds < 120) return absl::StrCat(seconds, " s ago");
  if (seconds < 2 * 3600) return absl::StrCat(seconds / 60, " min ago");
  if (seconds < 2 * 86400) return absl::StrCat(seconds / 3600, " h ago");
  return absl::StrCat(seconds / 86400, " days ago");
}

std::string OrDash(const std::string& text) {
  return text.empty() ? "-" : text;
}

nlohmann::ordered_json TextOrNull(const std::string& text) {
  return text.empty() ? Json() : Json(text);
}

std::string FormatState(const std::string& state, const Terminal& terminal) {
  constexpr absl::string_view kGreen = "32", kRed = "31", kYellow = "33";
  const bool good = state == "LIVE" || state == "ACTIVE" ||
                    state == "CONNECTED" || state == "PRESENT";
  const bool bad = state == "LOST" || state == "UNREGISTERED" ||
                   state == "ABSENT" || state == "GAVE_UP";
  return Colored(state, good ? kGreen : bad ? kRed : kYellow, terminal);
}

}  // namespace shardwright
