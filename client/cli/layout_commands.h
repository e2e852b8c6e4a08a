// shardctl layout: what a layout file says, and whether it may.

#ifndef CLIENT_CLI_LAYOUT_COMMANDS_H_
#define CLIENT_CLI_LAYOUT_COMMANDS_H_

#include "CLI/CLI.hpp"
#include "client/cli/command.h"

namespace shardwright {

// `console` and `outcome` outlive `app`.
void AddLayoutCommands(CLI::App& app, Console& console, Outcome& outcome);

}  // namespace shardwright

#endif  // CLIENT_CLI_LAYOUT_COMMANDS_H_
