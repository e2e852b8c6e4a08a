// What the commands of shardctl share: where they print, and how they end.

#ifndef CLIENT_CLI_COMMAND_H_
#define CLIENT_CLI_COMMAND_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/cli/terminal.h"
#include "nlohmann/json.hpp"
#include "proto/option/integer.h"

namespace shardwright {

// Part of the command line's contract; scripts branch on them.
enum ExitCode {
  kExitOk = 0,
  kExitUnexpected = 1,
  kExitUsage = 2,
  kExitUnreachable = 3,  // Or timed out, or too busy.
  kExitNotFound = 4,
  kExitInvalidInput = 5,  // A file that is missing, too.
  kExitDifference = 6,
  kExitPermission = 7,
  kExitConflict = 8,
};

ExitCode ExitCodeOf(const absl::Status& status);

// "error: ..." with one line a problem, and what to try next if that is known.
std::string FormatError(const absl::Status& status);

// Neither messages nor JSON can carry other text. Errors:
//   INVALID_ARGUMENT ARGUMENT_NOT_UTF8
absl::Status CheckUtf8(int argc, const char* const* argv);

enum class OutputFormat { kTable, kWide, kJson, kYaml };

// Whether programs read it: JSON and YAML are the same document.
inline bool IsDocument(OutputFormat format) {
  return format == OutputFormat::kJson || format == OutputFormat::kYaml;
}

// Where a command prints: results to `out`, what became of them in the status
// that it returns. Only those who watch say to `err` that they go on. Outlives
// the command.
struct Console {
  std::ostream& out;
  std::ostream& err;
  Terminal terminal;

  // JSON is one line, which `jq` makes pretty. Bytes that are no UTF-8 become
  // U+FFFD. REQUIRES: IsDocument(format).
  void PrintDocument(const nlohmann::ordered_json& json,
                     OutputFormat format) const;
  void Print(absl::string_view text) const;
};

// Collects what the one command that was chosen returned.
struct Outcome {
  absl::Status status;
};

// `status`, and `more` in its message; its reason and details stay.
absl::Status WithHint(const absl::Status& status, absl::string_view more);

// Makes `command` run `run` when the command line names it.
void OnChosen(CLI::App& command, Outcome& outcome,
              std::function<absl::Status()> run);

// "'jsn' is not one of table, json: did you mean 'json'?"
std::string NotOneOf(const std::string& text,
                     const std::vector<std::string>& words);

// Takes one of a few words for an enumeration; the error lists them.
template <typename Enum>
CLI::Validator OneOf(const std::vector<std::pair<std::string, Enum>>& choices) {
  return CLI::Validator(
      [choices](std::string& text) -> std::string {
        std::vector<std::string> words;
        for (const auto& [word, value] : choices) {
          if (text == word) {
            text = std::to_string(static_cast<int>(value));
            return "";
          }
          words.push_back(word);
        }
        return NotOneOf(text, words);
      },
      /*validator_desc=*/"");
}

// Takes whole numbers in [first, last], as IntegerIn() does.
inline CLI::Validator Integer(
    int64_t first = std::numeric_limits<int64_t>::min(),
    int64_t last = std::numeric_limits<int64_t>::max()) {
  return CLI::Validator(IntegerIn(first, last), /*validator_desc=*/"");
}

// Adds -o and --no-color. `console` and `format` outlive `command`.
void AddOutputOption(CLI::App& command, Console& console, OutputFormat& format);

}  // namespace shardwright

#endif  // CLIENT_CLI_COMMAND_H_
