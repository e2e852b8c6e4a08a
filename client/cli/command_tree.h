// The commands and options that the command line has, as CLI11 knows them.

#ifndef CLIENT_CLI_COMMAND_TREE_H_
#define CLIENT_CLI_COMMAND_TREE_H_

#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace shardwright {

// Its subcommands, in the order of its help.
std::vector<const CLI::App*> CommandsOf(const CLI::App& command);

// Its options and positionals, those in option groups too.
std::vector<const CLI::Option*> OptionsOf(const CLI::App& command);

// "-o", "--output"; nothing for a positional.
std::vector<std::string> NamesOf(const CLI::Option& option);

// Scripts for `source <(shardctl completion bash)`, and zsh, made of what the
// tree has: they complete commands, options, and values that are choices (type
// name "a|b|c") or files (type name "FILE").
std::string BashCompletion(const CLI::App& app);
std::string ZshCompletion(const CLI::App& app);

}  // namespace shardwright

#endif  // CLIENT_CLI_COMMAND_TREE_H_
