#include "client/cli/job_options.h"

#include <utility>
#include <vector>

#include "proto/option/address.h"
#include "proto/plan/problem.h"
#include "proto/status/error.h"

namespace shardwright {

CoordinatorClient JobOptions::ConnectForCommand(
    const std::string& coordinator) {
  CoordinatorClient::Options options;
  options.retry_timeout = absl::Seconds(3);
  return CoordinatorClient::Create(coordinator, options);
}

CLI::App& AddJobCommand(CLI::App& parent, const std::string& name,
                        const std::string& description, JobNeed need,
                        JobOptions& options, Console& console, Outcome& outcome,
                        std::function<absl::Status()> run) {
  CLI::App& command = *parent.add_subcommand(name, description);
  command
      .add_option("--coordinator", options.coordinator,
                  "the coordinator to ask")
      ->required()
      ->check(CheckHasPort)
      ->type_name("HOST:PORT");
  if (need != JobNeed::kNone) {
    command
        .add_option("--job", options.job,
                    need == JobNeed::kRequired ? "job" : "only this job")
        ->required(need == JobNeed::kRequired)
        ->type_name("NAME");
  }
  AddOutputOption(command, console, options.format);
  OnChosen(command, outcome, [&options, run = std::move(run)] {
    const absl::Status status = run();
    return status.ok() ? status
                       : SuggestJob(status, options.Connect(), options.job);
  });
  return command;
}

absl::Status SuggestJob(const absl::Status& status,
                        const CoordinatorClient& client,
                        const std::string& job) {
  if (ReasonOf(status) != "JOB_NOT_FOUND") return status;
  v1::ListLayoutsRequest request;
  request.set_page_size(1000);
  const absl::StatusOr<v1::ListLayoutsResponse> response =
      client.ListLayouts(request);
  if (!response.ok()) return status;
  std::vector<std::string> names;
  for (const v1::LayoutSummary& layout : response->layouts()) {
    names.push_back(layout.name());
  }
  return WithHint(status, DidYouMean(job, names));
}

}  // namespace shardwright
