#include "client/cli/explain_commands.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/clique_report.h"
#include "client/cli/job_options.h"
#include "client/cli/member_table.h"
#include "client/cli/placement_report.h"
#include "client/cli/plan_source.h"
#include "proto/plan/clique_name.h"
#include "proto/plan/group.h"
#include "proto/plan/problem.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMembersShown = 20;
constexpr int kFetchesMax = 8;

struct RankOptions {
  PlanSourceOptions source;
  Rank rank = 0;
  OutputFormat format = OutputFormat::kTable;
};

struct CliqueOptions : JobOptions {
  std::string clique;
  v1::MemberKind kind = v1::WORKER;
  bool all = false;
  std::string report;
};

absl::Status ExplainRankCommand(const Console& console,
                                const RankOptions& options) {
  ASSIGN_OR_RETURN(const PlanSource source, PlanSource::Open(options.source));
  ASSIGN_OR_RETURN(const PlacementReport report,
                   ReportPlacement(source.layout(), options.rank));
  if (IsDocument(options.format)) {
    console.PrintDocument(PlacementJson(report), options.format);
  } else {
    console.Print(FormatPlacement(report, options.format == OutputFormat::kWide,
                                  console.terminal));
  }
  return absl::OkStatus();
}

// "did you mean 'language/tp/3'?", where module or kind are slips.
std::string SuggestClique(const JobOptions& options, const std::string& name) {
  const auto parsed = ParseCliqueName(name);
  if (!parsed.has_value()) return "";
  const absl::StatusOr<PlanSource> source =
      PlanSource::Open({/*layout_file=*/"", options.coordinator, options.job});
  if (!source.ok()) return "";
  std::vector<std::string> names;
  for (const Module& module : source->layout().modules()) {
    for (const GroupKind& kind : GroupKinds()) {
      if (parsed->index >= GroupCount(source->layout(), module, kind)) continue;
      names.push_back(Group{&module, &kind, parsed->index}.name());
    }
  }
  return DidYouMean(name, names);
}

// All pages; again from the first where the clique changed between two.
absl::StatusOr<v1::CliqueExplanation> FetchExplanation(
    const CliqueOptions& options) {
  const CoordinatorClient client = options.Connect();
  v1::ExplainCliqueRequest request;
  request.set_job(options.job);
  request.set_clique(options.clique);
  request.set_kind(options.kind);
  request.set_only_blocking(!options.all);
  for (int fetch = 0; fetch < kFetchesMax; ++fetch) {
    request.clear_page_token();
    ASSIGN_OR_RETURN(v1::CliqueExplanation explanation,
                     client.ExplainClique(request));
    bool fits = true;
    while (fits && !explanation.next_page_token().empty()) {
      request.set_page_token(explanation.next_page_token());
      ASSIGN_OR_RETURN(const v1::CliqueExplanation page,
                       client.ExplainClique(request));
      fits = AppendPage(page, explanation);
    }
    if (fits) return explanation;
  }
  return Error(
      absl::StatusCode::kAborted, "CLIQUE_CHANGES",
      absl::StrCat("clique '", options.clique, "' has begun ", kFetchesMax,
                   " attempts while its members were listed"),
      {{"clique", options.clique}});
}

absl::Status ExplainCliqueCommand(const Console& console,
                                  const CliqueOptions& options) {
  const absl::StatusOr<v1::CliqueExplanation> explanation =
      FetchExplanation(options);
  if (ReasonOf(explanation.status()) == "CLIQUE_NOT_FOUND") {
    return WithHint(explanation.status(),
                    SuggestClique(options, options.clique));
  }
  if (!explanation.ok()) return explanation.status();
  if (options.document()) {
    console.PrintDocument(CliqueExplanationJson(options.job, *explanation),
                          options.format);
  } else {
    console.Print(FormatCliqueExplanation(
        *explanation,
        options.wide() ? explanation->members_size() : kMembersShown,
        absl::Now(), console.terminal));
  }
  return absl::OkStatus();
}

absl::Status ExplainMissing(const Console& console,
                            const CliqueOptions& options) {
  const CoordinatorClient client = options.Connect();
  std::vector<v1::Member> members;
  v1::ListMissingMembersRequest request;
  request.set_report(options.report);
  do {
    ASSIGN_OR_RETURN(const v1::ListMissingMembersResponse response,
                     client.ListMissingMembers(request));
    members.insert(members.end(), response.members().begin(),
                   response.members().end());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  if (options.document()) {
    console.PrintDocument(Json::object({{"report", options.report},
                                        {"members", MembersJson(members)}}),
                          options.format);
  } else {
    console.Print(FormatMembers(members, options.wide(), console.terminal));
  }
  return absl::OkStatus();
}

void AddExplainRank(CLI::App& explain, Console& console, Outcome& outcome) {
  const auto options = std::make_shared<RankOptions>();
  CLI::App& rank = *explain.add_subcommand(
      "rank", "Why a rank is in each of its groups, by the arithmetic");
  rank.add_option("rank", options->rank, "rank")
      ->required()
      ->transform(Integer())
      ->type_name("N");
  AddPlanSourceOptions(rank, options->source);
  AddOutputOption(rank, console, options->format);
  OnChosen(rank, outcome, [&console, options] {
    return ExplainRankCommand(console, *options);
  });
}

}  // namespace

void AddExplainCommands(CLI::App& app, Console& console, Outcome& outcome) {
  CLI::App& explain = *app.add_subcommand(
      "explain", "Says why a rank is where it is, and who waits for whom");
  explain.require_subcommand(1);
  AddExplainRank(explain, console, outcome);

  const auto options = std::make_shared<CliqueOptions>();
  CLI::App& clique = AddJobCommand(
      explain, "clique", "Who keeps a clique waiting, and what to do",
      JobNeed::kRequired, *options, console, outcome,
      [&console, options] { return ExplainCliqueCommand(console, *options); });
  clique.add_option("clique", options->clique, "clique, as 'language/tp/3'")
      ->required()
      ->type_name("NAME");
  clique.add_flag("--all", options->all,
                  "all members, not only those that it waits for");
  clique.add_option("--kind", options->kind, "whose clique (default worker)")
      ->transform(OneOf<v1::MemberKind>(
          {{"worker", v1::WORKER}, {"trainer", v1::TRAINER}}))
      ->type_name("worker|trainer");

  AddJobCommand(
      explain, "missing", "All members of a set that a message cut short",
      JobNeed::kNone, *options, console, outcome,
      [&console, options] { return ExplainMissing(console, *options); })
      .add_option("report", options->report, "the set's name in the message")
      ->required()
      ->type_name("REPORT");
}

}  // namespace shardwright
