// shardctl plan compare: what context parallelism would cost, for the user's
// own document lengths.

#ifndef CLIENT_CLI_COMPARE_COMMAND_H_
#define CLIENT_CLI_COMPARE_COMMAND_H_

#include "CLI/CLI.hpp"
#include "client/cli/command.h"

namespace shardwright {

// Below `plan`. `console` and `outcome` outlive it.
void AddCompareCommand(CLI::App& plan, Console& console, Outcome& outcome);

}  // namespace shardwright

#endif  // CLIENT_CLI_COMPARE_COMMAND_H_
