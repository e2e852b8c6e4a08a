#include "client/cli/plan_commands.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/compare_command.h"
#include "client/cli/group_table.h"
#include "client/cli/input_file.h"
#include "client/cli/plan_picture.h"
#include "client/cli/plan_source.h"
#include "client/cli/route_report.h"
#include "client/json/plan_json.h"
#include "proto/plan/codec.h"
#include "proto/plan/problem.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

struct Arguments {
  PlanSourceOptions source;
  std::string module;
  std::string batch_file;
  BatchShape shape;
  std::optional<Rank> rank;
  std::optional<int64_t> row_bytes;
  bool rows = false;
  OutputFormat format = OutputFormat::kTable;
};

absl::StatusOr<const Module*> FindModule(const Layout& layout,
                                         const std::string& name) {
  if (const Module* module = layout.FindModule(name)) return module;
  std::vector<std::string> names;
  for (const Module& module : layout.modules()) names.push_back(module.name());
  return WithHint(
      Error(absl::StatusCode::kNotFound, "MODULE_NOT_FOUND",
            absl::StrCat("layout '", layout.name(), "' has no module '", name,
                         "', only ", absl::StrJoin(names, ", ")),
            {{"module", name}}),
      DidYouMean(name, names));
}

// The ranks to plan for, in grid order: the one that was asked for, or all.
absl::StatusOr<std::vector<Rank>> RanksOf(const Layout& layout,
                                          const Module& module,
                                          std::optional<Rank> rank) {
  if (rank.has_value() && !module.IndexOf(*rank).has_value()) {
    RETURN_IF_ERROR(layout.Find(*rank).status());
    return Error(absl::StatusCode::kNotFound, "RANK_NOT_FOUND",
                 absl::StrCat("rank ", *rank, " is not in module '",
                              module.name(), "': ", FormatModule(module)),
                 {{"rank", absl::StrCat(*rank)}});
  }
  if (rank.has_value()) return std::vector<Rank>{*rank};
  std::vector<Rank> ranks;
  for (int64_t i = 0; i < module.rank_count(); ++i) {
    ranks.push_back(module.RankAt(i));
  }
  return ranks;
}

absl::StatusOr<std::vector<ShardPlan>> PlanEach(
    const std::vector<Rank>& ranks,
    const std::function<absl::StatusOr<ShardPlan>(Rank)>& plan) {
  std::vector<ShardPlan> plans;
  for (Rank rank : ranks) {
    ASSIGN_OR_RETURN(plans.emplace_back(), plan(rank));
  }
  return plans;
}

absl::Status PlanShardCommand(const Console& console,
                              const Arguments& arguments) {
  ASSIGN_OR_RETURN(const PlanSource source, PlanSource::Open(arguments.source));
  ASSIGN_OR_RETURN(const Module* module,
                   FindModule(source.layout(), arguments.module));
  ASSIGN_OR_RETURN(const std::vector<Rank> ranks,
                   RanksOf(source.layout(), *module, arguments.rank));
  ASSIGN_OR_RETURN(const std::vector<ShardPlan> plans,
                   PlanEach(ranks, [&](Rank rank) {
                     return source.PlanShard(rank, arguments.shape);
                   }));
  if (IsDocument(arguments.format)) {
    console.PrintDocument(PlanShardJson(plans[0].digest, plans, arguments.rows),
                          arguments.format);
  } else {
    console.Print(DrawShardPlans(source.layout(), arguments.shape, plans,
                                 console.terminal));
  }
  return absl::OkStatus();
}

absl::Status PlanComposeCommand(const Console& console,
                                const Arguments& arguments) {
  ASSIGN_OR_RETURN(const PlanSource source, PlanSource::Open(arguments.source));
  ASSIGN_OR_RETURN(const v1::Batch batch,
                   LoadBatch(arguments.batch_file, source.layout()));
  ASSIGN_OR_RETURN(
      const std::vector<Rank> ranks,
      RanksOf(source.layout(), source.layout().language(), arguments.rank));
  ASSIGN_OR_RETURN(const std::vector<ShardPlan> plans,
                   PlanEach(ranks, [&](Rank rank) {
                     return source.PlanCompose(rank, batch);
                   }));
  if (IsDocument(arguments.format)) {
    console.PrintDocument(
        PlanComposeJson(plans[0].digest, plans, arguments.rows),
        arguments.format);
  } else {
    console.Print(DrawComposePlans(source.layout(), BatchFromProto(batch),
                                   plans, console.terminal));
  }
  return absl::OkStatus();
}

absl::Status PlanRouteCommand(const Console& console,
                              const Arguments& arguments) {
  ASSIGN_OR_RETURN(const PlanSource source, PlanSource::Open(arguments.source));
  ASSIGN_OR_RETURN(const v1::Batch batch,
                   LoadBatch(arguments.batch_file, source.layout()));
  ASSIGN_OR_RETURN(const std::vector<RoutePlan> plans,
                   source.PlanRoutes(SendingRanks(source.layout()), batch));
  if (IsDocument(arguments.format)) {
    console.PrintDocument(PlanRouteJson(source.layout(), plans,
                                        arguments.row_bytes, arguments.rows),
                          arguments.format);
  } else {
    console.Print(FormatRoute(source.layout(), plans, arguments.row_bytes));
  }
  return absl::OkStatus();
}

void AddBatchOption(CLI::App& command, Arguments& arguments) {
  command
      .add_option("--batch", arguments.batch_file, "batch file, '-' for stdin")
      ->required()
      ->type_name("FILE");
}

void AddCommonOptions(CLI::App& command, Console& console,
                      Arguments& arguments) {
  AddPlanSourceOptions(command, arguments.source);
  command.add_option("--rank", arguments.rank, "only this rank")
      ->transform(Integer())
      ->type_name("RANK");
  command.add_flag("--rows", arguments.rows,
                   "with -o json: also each position by number");
  AddOutputOption(command, console, arguments.format);
}

void AddRouteCommand(CLI::App& plan, Console& console, Outcome& outcome) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& route = *plan.add_subcommand(
      "route", "Sends each row of the encoders to the ranks that own it");
  AddBatchOption(route, *arguments);
  AddPlanSourceOptions(route, arguments->source);
  route
      .add_option("--row-bytes", arguments->row_bytes,
                  "bytes of a row, to count bytes too")
      ->transform(Integer(1, int64_t{1} << 24))
      ->type_name("N");
  route.add_flag("--rows", arguments->rows,
                 "with -o json: also the rows of each transfer");
  AddOutputOption(route, console, arguments->format);
  OnChosen(route, outcome, [&console, arguments] {
    return PlanRouteCommand(console, *arguments);
  });
}

}  // namespace

void AddPlanCommands(CLI::App& app, Console& console, Outcome& outcome) {
  CLI::App& plan = *app.add_subcommand(
      "plan", "Shows which tokens of a micro-batch each rank owns");
  plan.require_subcommand(1);
  const auto arguments = std::make_shared<Arguments>();

  CLI::App& shard = *plan.add_subcommand(
      "shard", "Cuts up a sequence of which only the shape is known");
  shard.add_option("--module", arguments->module, "module to plan for")
      ->required()
      ->type_name("NAME");
  shard
      .add_option("--seq-length", arguments->shape.seq_length,
                  "tokens of a sample or pack, padding included")
      ->required()
      ->transform(Integer())
      ->type_name("S");
  arguments->shape.micro_batch_size = 1;
  shard
      .add_option("--micro-batch", arguments->shape.micro_batch_size,
                  "samples of a lane (default 1)")
      ->transform(Integer())
      ->type_name("B");
  shard
      .add_option("--cu-seqlens-padded", arguments->shape.cu_seqlens_padded,
                  "THD: starts of the documents with padding, and the total")
      ->delimiter(',')
      ->transform(Integer())
      ->type_name("0,N,...");
  shard
      .add_option("--cu-seqlens", arguments->shape.cu_seqlens,
                  "the same without padding, to count the padding")
      ->delimiter(',')
      ->transform(Integer())
      ->type_name("0,N,...");
  AddCommonOptions(shard, console, *arguments);
  OnChosen(shard, outcome, [&console, arguments] {
    return PlanShardCommand(console, *arguments);
  });

  CLI::App& compose = *plan.add_subcommand(
      "compose", "Aligns modalities by token ids, and cuts up the result");
  AddBatchOption(compose, *arguments);
  AddCommonOptions(compose, console, *arguments);
  OnChosen(compose, outcome, [&console, arguments] {
    return PlanComposeCommand(console, *arguments);
  });

  AddRouteCommand(plan, console, outcome);
  AddCompareCommand(plan, console, outcome);
}

}  // namespace shardwright
