// The members of a job: asked for, as JSON, and as text.

#ifndef CLIENT_CLI_MEMBER_TABLE_H_
#define CLIENT_CLI_MEMBER_TABLE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cc/coordinator_client.h"
#include "client/cli/terminal.h"
#include "google/protobuf/timestamp.pb.h"
#include "nlohmann/json.hpp"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

// All pages of ListMembers.
absl::StatusOr<std::vector<v1::Member>> ListMembers(
    const CoordinatorClient& client, const std::string& job);

nlohmann::ordered_json MemberJson(const v1::Member& member);
nlohmann::ordered_json MembersJson(const std::vector<v1::Member>& members);

// A line a member; `wide` adds process, device and lease.
std::string FormatMembers(const std::vector<v1::Member>& members, bool wide,
                          const Terminal& terminal);

// "12 s ago" by this machine's clock; "-" for a time that is not set.
std::string FormatAge(bool known, const google::protobuf::Timestamp& time);

// "-" for nothing.
std::string OrDash(const std::string& text);

// As JSON; null for nothing.
nlohmann::ordered_json TextOrNull(const std::string& text);

// LIVE, ACTIVE and the like, coloured by whether they are good news.
std::string FormatState(const std::string& state, const Terminal& terminal);

}  // namespace shardwright

#endif  // CLIENT_CLI_MEMBER_TABLE_H_
