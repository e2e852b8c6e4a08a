// shardctl explain: why a rank is in its groups, and who keeps others waiting.

#ifndef CLIENT_CLI_EXPLAIN_COMMANDS_H_
#define CLIENT_CLI_EXPLAIN_COMMANDS_H_

#include "CLI/CLI.hpp"
#include "client/cli/command.h"

namespace shardwright {

// `console` and `outcome` outlive `app`.
void AddExplainCommands(CLI::App& app, Console& console, Outcome& outcome);

}  // namespace shardwright

#endif  // CLIENT_CLI_EXPLAIN_COMMANDS_H_
