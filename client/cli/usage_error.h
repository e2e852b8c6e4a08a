// What is wrong with a command line, in this program's words: CLI11's own are
// about its insides.

#ifndef CLIENT_CLI_USAGE_ERROR_H_
#define CLIENT_CLI_USAGE_ERROR_H_

#include <string>

#include "CLI/CLI.hpp"

namespace shardwright {

// "error: ..." and where the help is. A word that is not known is named before
// all else, with the nearest of the chosen command's commands or options, if
// one is near: what is missing follows from it. A CLI::App's failure_message().
std::string FormatUsageError(const CLI::App* app, const CLI::Error& error);

}  // namespace shardwright

#endif  // CLIENT_CLI_USAGE_ERROR_H_
