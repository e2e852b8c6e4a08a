// shardctl watch: layouts and events as they come, until it is interrupted.

#ifndef CLIENT_CLI_WATCH_COMMANDS_H_
#define CLIENT_CLI_WATCH_COMMANDS_H_

#include "CLI/CLI.hpp"
#include "client/cli/command.h"

namespace shardwright {

// `console` and `outcome` outlive `app`.
void AddWatchCommands(CLI::App& app, Console& console, Outcome& outcome);

}  // namespace shardwright

#endif  // CLIENT_CLI_WATCH_COMMANDS_H_
