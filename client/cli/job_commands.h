// shardctl apply, health: what a coordinator is told, and whether it serves.

#ifndef CLIENT_CLI_JOB_COMMANDS_H_
#define CLIENT_CLI_JOB_COMMANDS_H_

#include "CLI/CLI.hpp"
#include "client/cli/command.h"

namespace shardwright {

// `console` and `outcome` outlive `app`.
void AddJobCommands(CLI::App& app, Console& console, Outcome& outcome);

}  // namespace shardwright

#endif  // CLIENT_CLI_JOB_COMMANDS_H_
