// The examples that --help prints, all in one place. A test runs each of them.

#ifndef CLIENT_CLI_EXAMPLES_H_
#define CLIENT_CLI_EXAMPLES_H_

#include "CLI/CLI.hpp"

namespace shardwright {

// Puts its examples below each command's help. To be called when the tree is
// complete; every command that can be run has some.
void AddExamples(CLI::App& app);

}  // namespace shardwright

#endif  // CLIENT_CLI_EXAMPLES_H_
