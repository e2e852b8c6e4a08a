// shardctl plan: which tokens of a micro-batch each rank owns.

#ifndef CLIENT_CLI_PLAN_COMMANDS_H_
#define CLIENT_CLI_PLAN_COMMANDS_H_

#include "CLI/CLI.hpp"
#include "client/cli/command.h"

namespace shardwright {

// `console` and `outcome` outlive `app`.
void AddPlanCommands(CLI::App& app, Console& console, Outcome& outcome);

}  // namespace shardwright

#endif  // CLIENT_CLI_PLAN_COMMANDS_H_
