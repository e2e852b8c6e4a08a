// shardctl: layouts and plans on the command line.

#include <malloc.h>
#include <unistd.h>

#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "client/cli/command.h"
#include "client/cli/command_tree.h"
#include "client/cli/describe_commands.h"
#include "client/cli/examples.h"
#include "client/cli/explain_commands.h"
#include "client/cli/get_commands.h"
#include "client/cli/job_commands.h"
#include "client/cli/layout_commands.h"
#include "client/cli/plan_commands.h"
#include "client/cli/terminal.h"
#include "client/cli/usage_error.h"
#include "client/cli/watch_commands.h"

namespace shardwright {
namespace {

constexpr char kVersion[] = "0.1.0";

constexpr char kFooter[] =
    "'shardctl COMMAND --help' has examples of each.\n"
    "Exit codes: 0 ok, 1 unexpected, 2 usage, 3 unreachable or timed out,\n"
    "4 not found, 5 invalid input, 6 difference found, 7 permission, 8 "
    "conflict.\n"
    "With -o json or yaml the output is stable; text may change.";

void AddVersionCommand(CLI::App& app, Console& console, Outcome& outcome,
                       OutputFormat& format) {
  CLI::App& version = *app.add_subcommand("version", "Prints the version");
  AddOutputOption(version, console, format);
  OnChosen(version, outcome, [&console, &format] {
    if (IsDocument(format)) {
      console.PrintDocument(
          nlohmann::ordered_json::object({{"version", kVersion}}), format);
    } else {
      console.Print(std::string("shardctl ") + kVersion + "\n");
    }
    return absl::OkStatus();
  });
}

// `app` outlives the command, and is complete when it runs.
void AddCompletionCommand(CLI::App& app, const Console& console,
                          Outcome& outcome) {
  CLI::App& completion = *app.add_subcommand(
      "completion", "Prints a script that completes commands in a shell");
  completion.require_subcommand(1);
  const auto add = [&](const std::string& shell,
                       std::string (*script)(const CLI::App&)) {
    OnChosen(*completion.add_subcommand(
                 shell, "For " + shell + ": source <(shardctl completion " +
                            shell + ")"),
             outcome, [&app, &console, script] {
               console.Print(script(app));
               return absl::OkStatus();
             });
  };
  add("bash", BashCompletion);
  add("zsh", ZshCompletion);
}

int Main(int argc, char** argv) {
  // Between connect() and looking at errno, gRPC 1.51 allocates; a new arena
  // counts the processors, and errno is another one where there is no /sys.
  mallopt(M_ARENA_MAX, 1);
  Outcome outcome;
  outcome.status = CheckUtf8(argc, argv);
  if (!outcome.status.ok()) {
    std::cerr << FormatError(outcome.status);
    return ExitCodeOf(outcome.status);
  }
  Console console = {std::cout, std::cerr, Terminal::Detect(STDOUT_FILENO)};
  OutputFormat version_format = OutputFormat::kTable;
  CLI::App app("Layouts and shard plans of multimodal training jobs",
               "shardctl");
  app.footer(kFooter);
  app.failure_message(FormatUsageError);
  app.require_subcommand(1);
  AddLayoutCommands(app, console, outcome);
  AddPlanCommands(app, console, outcome);
  AddGetCommands(app, console, outcome);
  AddDescribeCommands(app, console, outcome);
  AddExplainCommands(app, console, outcome);
  AddWatchCommands(app, console, outcome);
  AddJobCommands(app, console, outcome);
  AddCompletionCommand(app, console, outcome);
  AddVersionCommand(app, console, outcome, version_format);
  AddExamples(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
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
