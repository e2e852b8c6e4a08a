#include "client/cli/job_commands.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/input_file.h"
#include "client/cli/job_options.h"
#include "client/json/plan_json.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

struct Options : JobOptions {
  std::string file;
  std::optional<int64_t> if_generation;
  bool dry_run = false;
};

// The server's words, at the lines of the file that they are about.
absl::Status ExplainRefusal(const absl::Status& status,
                            const LayoutFile& file) {
  const Problems problems = ProblemsFromStatus(status);
  if (problems.empty()) return status;
  const absl::Status refusal =
      DocumentError(ReasonOf(status), file.path, file.document, problems);
  if (!DetailOf(status).violations_truncated()) return refusal;
  return Error(refusal.code(), ReasonOf(status),
               absl::StrCat(refusal.message(),
                            "\nand more than one answer holds; 'shardctl "
                            "layout validate' shows all"));
}

absl::Status Apply(const Console& console, const Options& options) {
  ASSIGN_OR_RETURN(const LayoutFile file, ReadLayoutFile(options.file));
  if (!file.document.problems.empty()) {
    return DocumentError("INVALID_LAYOUT", file.path, file.document,
                         file.Check());
  }
  v1::ApplyLayoutRequest request;
  *request.mutable_layout() = file.message;
  request.set_dry_run(options.dry_run);
  if (options.if_generation.has_value()) {
    request.set_if_generation(*options.if_generation);
  }
  const absl::StatusOr<v1::ApplyLayoutResponse> response =
      options.Connect().ApplyLayout(request);
  if (!response.ok()) return ExplainRefusal(response.status(), file);
  if (options.document()) {
    console.PrintDocument(
        Json::object({{"job", file.message.name()},
                      {"generation", response->generation()},
                      {"digest", DigestText(response->digest())},
                      {"changed", response->changed()},
                      {"dry_run", options.dry_run}}),
        options.format);
    return absl::OkStatus();
  }
  const char* const applied = options.dry_run ? "would be applied" : "applied";
  console.Print(absl::StrFormat(
      "layout %s %s: generation %d, digest %s%s\n", file.message.name(),
      response->changed() ? applied : "unchanged", response->generation(),
      DigestText(response->digest()),
      options.dry_run ? " (dry run: nothing was changed)" : ""));
  return absl::OkStatus();
}

absl::Status Health(const Console& console, const Options& options) {
  RETURN_IF_ERROR(options.Connect().CheckHealth());
  if (options.document()) {
    console.PrintDocument(Json::object({{"coordinator", options.coordinator},
                                        {"status", "SERVING"}}),
                          options.format);
  } else {
    console.Print(
        absl::StrCat("coordinator ", options.coordinator, " is SERVING\n"));
  }
  return absl::OkStatus();
}

}  // namespace

void AddJobCommands(CLI::App& app, Console& console, Outcome& outcome) {
  const auto options = std::make_shared<Options>();
  CLI::App& apply =
      AddJobCommand(app, "apply", "Makes a file the layout of its job",
                    JobNeed::kNone, *options, console, outcome,
                    [&console, options] { return Apply(console, *options); });
  apply.add_option("-f,--file", options->file, "layout file, '-' for stdin")
      ->required()
      ->type_name("FILE");
  apply
      .add_option("--if-generation", options->if_generation,
                  "only if this is the generation in force; 0: no such job yet")
      ->transform(Integer())
      ->type_name("N");
  apply.add_flag("--dry-run", options->dry_run,
                 "check and answer, but change nothing");

  AddJobCommand(app, "health", "Asks whether the coordinator serves",
                JobNeed::kNone, *options, console, outcome,
                [&console, options] { return Health(console, *options); });
}

}  // namespace shardwright
