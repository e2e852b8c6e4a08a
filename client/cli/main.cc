// shardctl: layouts and plans on the command line.

#include <unistd.h>

#include <iostream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "client/cli/command.h"
#include "client/cli/job_commands.h"
#include "client/cli/layout_commands.h"
#include "client/cli/plan_commands.h"
#include "client/cli/terminal.h"
#include "proto/plan/problem.h"

namespace shardwright {
namespace {

constexpr char kVersion[] = "0.1.0";

constexpr char kFooter[] =
    "Exit codes: 0 ok, 1 unexpected, 2 usage, 3 unreachable or timed out,\n"
    "4 not found, 5 invalid input, 6 difference found, 7 permission, 8 "
    "conflict.\n"
    "With -o json the output is stable; text may change.";

void AddVersionCommand(CLI::App& app, const Console& console, Outcome& outcome,
                       OutputFormat& format) {
  CLI::App& version = *app.add_subcommand("version", "Prints the version");
  AddOutputOption(version, format);
  OnChosen(version, outcome, [&console, &format] {
    if (format == OutputFormat::kJson) {
      console.PrintJson(
          nlohmann::ordered_json::object({{"version", kVersion}}));
    } else {
      console.Print(std::string("shardctl ") + kVersion + "\n");
    }
    return absl::OkStatus();
  });
}

// "did you mean 'plan'?", where a word is almost a command.
std::string Suggestion(const CLI::App& app) {
  const CLI::App* chosen = &app;
  while (!chosen->get_subcommands().empty()) {
    chosen = chosen->get_subcommands().front();
  }
  std::vector<std::string> names;
  for (const CLI::App* command : chosen->get_subcommands({})) {
    if (!command->get_name().empty()) names.push_back(command->get_name());
  }
  const std::vector<std::string> words = chosen->remaining();
  return words.empty() ? "" : DidYouMean(words.front(), names);
}

int Main(int argc, char** argv) {
  const Console console = {std::cout, Terminal::Detect(STDOUT_FILENO)};
  Outcome outcome;
  OutputFormat version_format = OutputFormat::kTable;
  CLI::App app("Layouts and shard plans of multimodal training jobs",
               "shardctl");
  app.footer(kFooter);
  app.require_subcommand(1);
  AddLayoutCommands(app, console, outcome);
  AddPlanCommands(app, console, outcome);
  AddJobCommands(app, console, outcome);
  AddVersionCommand(app, console, outcome, version_format);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int exit_code = app.exit(error);
    const std::string suggestion = Suggestion(app);
    if (exit_code == 0) return kExitOk;
    if (!suggestion.empty()) std::cerr << suggestion << '\n';
    return kExitUsage;
  }
  if (!outcome.status.ok()) std::cerr << FormatError(outcome.status);
  if (!std::cout.flush()) {
    std::cerr << "error: cannot write to the standard output\n";
    return kExitUnexpected;
  }
  return ExitCodeOf(outcome.status);
}

}  // namespace
}  // namespace shardwright

int main(int argc, char** argv) { return shardwright::Main(argc, argv); }
