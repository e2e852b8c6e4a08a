// What the commands of shardctl share: where they print, and how they end.

#ifndef CLIENT_CLI_COMMAND_H_
#define CLIENT_CLI_COMMAND_H_

#include <functional>
#include <ostream>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/cli/terminal.h"
#include "nlohmann/json.hpp"

namespace shardwright {

// Part of the command line's contract; scripts branch on them.
enum ExitCode {
  kExitOk = 0,
  kExitUnexpected = 1,
  kExitUsage = 2,
  kExitUnreachable = 3,  // Or timed out.
  kExitNotFound = 4,
  kExitInvalidInput = 5,  // A file that is missing, too.
  kExitDifference = 6,
  kExitPermission = 7,
  kExitConflict = 8,
};

ExitCode ExitCodeOf(const absl::Status& status);

// "error: ..." with one line a problem, and what to try next if that is known.
std::string FormatError(const absl::Status& status);

enum class OutputFormat { kTable, kJson };

// Where a command prints: results to `out`, and all else nowhere but in the
// status that it returns. Outlives the command.
struct Console {
  std::ostream& out;
  Terminal terminal;

  // One line: programs read it, and `jq` makes it pretty.
  void PrintJson(const nlohmann::ordered_json& json) const;
  void Print(absl::string_view text) const;
};

// Collects what the one command that was chosen returned.
struct Outcome {
  absl::Status status;
};

// Makes `command` run `run` when the command line names it.
void OnChosen(CLI::App& command, Outcome& outcome,
              std::function<absl::Status()> run);

// Adds -o. `format` outlives `command`.
void AddOutputOption(CLI::App& command, OutputFormat& format);

}  // namespace shardwright

#endif  // CLIENT_CLI_COMMAND_H_
