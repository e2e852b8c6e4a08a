// How far cliques are and who keeps them waiting, as JSON and as text. Pure but
// for ages ("12 s ago").

#ifndef CLIENT_CLI_CLIQUE_REPORT_H_
#define CLIENT_CLI_CLIQUE_REPORT_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/cli/terminal.h"
#include "nlohmann/json.hpp"
#include "shardwright/v1/diagnostics.pb.h"

namespace shardwright {

nlohmann::ordered_json CliqueJson(const v1::CliqueSummary& clique);
nlohmann::ordered_json CliqueExplanationJson(
    const std::string& job, const v1::CliqueExplanation& explanation);

// A line a clique; `wide` adds its backend and why the last attempt ended.
std::string FormatCliques(const std::vector<v1::CliqueSummary>& cliques,
                          bool wide, const Terminal& terminal);

// Adds the members of the next page. False if that is of another layout or
// attempt than those before: then nothing is added.
bool AppendPage(const v1::CliqueExplanation& page,
                v1::CliqueExplanation& explanation);

// The state in a sentence, a line a member (the first `members_max`), and for
// each way in which members keep it waiting at `now`, what to do.
std::string FormatCliqueExplanation(const v1::CliqueExplanation& explanation,
                                    int members_max, absl::Time now,
                                    const Terminal& terminal);

}  // namespace shardwright

#endif  // CLIENT_CLI_CLIQUE_REPORT_H_
