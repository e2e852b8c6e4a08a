// shardctl get: lists of what a coordinator has.

#ifndef CLIENT_CLI_GET_COMMANDS_H_
#define CLIENT_CLI_GET_COMMANDS_H_

#include "CLI/CLI.hpp"
#include "client/cli/command.h"

namespace shardwright {

// `console` and `outcome` outlive `app`.
void AddGetCommands(CLI::App& app, Console& console, Outcome& outcome);

}  // namespace shardwright

#endif  // CLIENT_CLI_GET_COMMANDS_H_
