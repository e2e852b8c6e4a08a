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

std::string UnknownWord(const CLI::App& command, absl::string_view text) {
  const std::string word(text.substr(0, text.find('=')));
  std::vector<std::string> names = CommandNames(command);
  for (const CLI::Option* option : OptionsOf(command)) {
    for (const std::string& name : NamesOf(*option)) {
      if (absl::StartsWith(name, "--")) names.push_back(name);
    }
  }
  const std::string hint = DidYouMean(word, names);
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
    return absl::StrCat(parts.first, ": '", parts.second, "' is not a number");
  }
  if (absl::ConsumePrefix(&rest, "Exactly 1 option from")) {
    return absl::StrContains(rest, " were given")
               ? absl::StrCat("only one of ", ListIn(rest), " can be given")
               : absl::StrCat("one of ", ListIn(rest), " is required");
  }
  if (absl::ConsumePrefix(&rest, "Requires at most 1 options")) {
    return absl::StrCat("only one of ", ListIn(rest), " can be given");
  }
  if (absl::ConsumePrefix(&rest, "The following argument")) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(rest, absl::MaxSplits(": ", 1));
    return UnknownWord(command, parts.second.substr(0, parts.second.find(' ')));
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
  std::string problem;
  // Words that parsing left over.
  if (const std::vector<std::string> left = command->remaining();
      error.get_name() == "RequiredError" && !left.empty()) {
    problem = UnknownWord(*command, left.front());
  }
  if (problem.empty()) problem = ProblemOf(*command, error);
  return absl::StrCat("error: ", problem, "\ntry: ", path, " --help\n");
}

}  // namespace shardwright
