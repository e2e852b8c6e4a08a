// A module's groups as text, a line a kind.

#ifndef CLIENT_CLI_GROUP_TABLE_H_
#define CLIENT_CLI_GROUP_TABLE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "client/cli/terminal.h"
#include "proto/plan/layout.h"

namespace shardwright {

// "[4-5,8] [6-7]" and so on; what does not fit the terminal (or 100 columns) is
// counted, not shown, and costs nothing.
std::string FormatGroups(const Layout& layout, const Terminal& terminal);

// "images (encoder): ranks 0-3, tp 2, dp 2": sizes above 1.
std::string FormatModule(const Module& module);

// "0-3,17". Ranks keep their order: of [6, 4, 5] it is "6,4-5". Text above
// `bytes_max` ends early, in "...".
std::string FormatRanks(const std::vector<Rank>& ranks, size_t bytes_max = 60);

absl::string_view RoleName(Role role);

}  // namespace shardwright

#endif  // CLIENT_CLI_GROUP_TABLE_H_
