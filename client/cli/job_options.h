// What the commands that ask a coordinator have in common.

#ifndef CLIENT_CLI_JOB_OPTIONS_H_
#define CLIENT_CLI_JOB_OPTIONS_H_

#include <functional>
#include <string>

#include "CLI/CLI.hpp"
#include "client/cc/coordinator_client.h"
#include "client/cli/command.h"

namespace shardwright {

struct JobOptions {
  std::string coordinator;
  std::string job;
  OutputFormat format = OutputFormat::kTable;

  CoordinatorClient Connect() const { return ConnectForCommand(coordinator); }
  bool document() const { return IsDocument(format); }
  bool wide() const { return format == OutputFormat::kWide; }

  // A client for people: an answer, or none, within seconds.
  static CoordinatorClient ConnectForCommand(const std::string& coordinator);
};

enum class JobNeed { kNone, kOptional, kRequired };

// Adds a command with --coordinator, --job as `need` says, and -o, that runs
// `run`. `options`, `console` and `outcome` outlive `parent`.
CLI::App& AddJobCommand(CLI::App& parent, const std::string& name,
                        const std::string& description, JobNeed need,
                        JobOptions& options, Console& console, Outcome& outcome,
                        std::function<absl::Status()> run);

// `status`; if it is JOB_NOT_FOUND and the coordinator has a job of almost that
// name, with a hint.
absl::Status SuggestJob(const absl::Status& status,
                        const CoordinatorClient& client,
                        const std::string& job);

}  // namespace shardwright

#endif  // CLIENT_CLI_JOB_OPTIONS_H_
