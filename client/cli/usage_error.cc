#include "client/cli/usage_error.h"

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "client/cli/command_tree.h"
#include "proto/plan/problem.h"

namespace shardwright {
namespace {

// The command that the line has chosen, and its path: "shardctl plan shard".
std::pair<const CLI::App*, std::string> ChosenOf(const CLI::App& app) {
  const CLI::App* chosen = &app;
  std::string path = app.get_name();
  while (!chosen->get_subcommands().empty()) {
    chosen = chosen->get_subcommands().front();
    absl::StrAppend(&path, " ", chosen->get_name());
  }
  return {chosen, path};
}

std::vector<std::string> CommandNames(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* child : CommandsOf(command)) {
    names.push_back(child->get_name());
  }
  return names;
}

// The word that parsing left over and that is the most likely mistake: behind
// an option that is not known, its value is left over too. Empty if none is.
std::string LeftOver(const CLI::App& app) {
  const CLI::App* command = &app;
  std::vector<std::string> words = command->remaining();
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().front();
    const std::vector<std::string> more = command->remaining();
    words.insert(words.end(), more.begin(), more.end());
  }
  for (const std::string& word : words) {
    if (absl::StartsWith(word, "-")) return word;
  }
  return words.empty() ? "" : words.front();
}

std::string UnknownWord(const CLI::App& command, const std::string& path,
                        absl::string_view text) {
  const std::string word(text.substr(0, text.find('=')));
  std::vector<std::string> guesses = CommandNames(command);
  for (const CLI::Option* option : OptionsOf(command)) {
    for (const std::string& name : NamesOf(*option)) {
      if (name == word) {
        return absl::StrCat("'", word, "' must come after '", path, "'");
      }
      if (absl::StartsWith(name, "--")) guesses.push_back(name);
    }
  }
  const std::string hint = DidYouMean(word, guesses);
  return absl::StrCat("'", word, "' is not known here",
                      hint.empty() ? "" : ": ", hint);
}

// "--a, --b" of CLI11's "... [--a,--b] ...".
std::string ListIn(absl::string_view text) {
  const std::vector<absl::string_view> parts =
      absl::StrSplit(text, absl::ByAnyChar("[]"));
  return absl::StrReplaceAll(parts[1], {{",", ", "}});
}

std::string ProblemOf(const CLI::App& command, const CLI::Error& error) {
  const std::string text = error.what();
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "Could not convert: ")) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(rest, absl::MaxSplits(" = ", 1));
    // Flags, which take no value. All else is checked before.
    return absl::StrCat(parts.first, ": '", parts.second,
                        "' is neither true nor false");
  }
  if (absl::ConsumePrefix(&rest, "Exactly 1 option from")) {
    return absl::StrContains(rest, " were given")
               ? absl::StrCat("only one of ", ListIn(rest), " can be given")
               : absl::StrCat("one of ", ListIn(rest), " is required");
  }
  if (absl::ConsumePrefix(&rest, "Requires at most 1 options")) {
    return absl::StrCat("only one of ", ListIn(rest), " can be given");
  }
  if (text == "A subcommand is required") {
    return absl::StrCat("a command is required, one of ",
                        absl::StrJoin(CommandNames(command), ", "));
  }
  if (absl::ConsumeSuffix(&rest, " missing")) {  // "--tp: 1 required N"
    return absl::StrCat(rest.substr(0, rest.find(':')), " needs a value");
  }
  return text;
}

}  // namespace

std::string FormatUsageError(const CLI::App* app, const CLI::Error& error) {
  const auto [command, path] = ChosenOf(*app);
  const std::string left = LeftOver(*app);
  // What has been taken for the value of something else may be no mistake
  // itself; an option that nobody knows is one.
  const auto kind = static_cast<CLI::ExitCodes>(error.get_exit_code());
  const bool blame_left = absl::StartsWith(left, "-") ||
                          kind == CLI::ExitCodes::RequiredError ||
                          kind == CLI::ExitCodes::ExtrasError;
  const std::string problem = !left.empty() && blame_left
                                  ? UnknownWord(*command, path, left)
                                  : ProblemOf(*command, error);
  return absl::StrCat("error: ", problem, "\ntry: ", path, " --help\n");
}

}  // namespace shardwright
