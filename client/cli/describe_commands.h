// shardctl describe: all about one rank or worker.

#ifndef CLIENT_CLI_DESCRIBE_COMMANDS_H_
#define CLIENT_CLI_DESCRIBE_COMMANDS_H_

#include "CLI/CLI.hpp"
#include "client/cli/command.h"

namespace shardwright {

// `console` and `outcome` outlive `app`.
void AddDescribeCommands(CLI::App& app, Console& console, Outcome& outcome);

}  // namespace shardwright

#endif  // CLIENT_CLI_DESCRIBE_COMMANDS_H_
