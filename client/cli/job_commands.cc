#include "client/cli/job_commands.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/group_table.h"
#include "client/cli/input_file.h"
#include "client/cli/plan_source.h"
#include "client/cli/text_table.h"
#include "client/json/plan_json.h"
#include "google/protobuf/util/time_util.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;
using Align = TextTable::Align;
using google::protobuf::util::TimeUtil;

struct Arguments {
  std::string coordinator;
  std::string job;
  std::string file;
  std::optional<int64_t> if_generation;
  bool dry_run = false;
  int64_t rank = 0;
  OutputFormat format = OutputFormat::kTable;

  CoordinatorClient Connect() const { return ConnectForCommand(coordinator); }
  bool json() const { return format == OutputFormat::kJson; }
};

std::string OrDash(const std::string& text) {
  return text.empty() ? "-" : text;
}

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

absl::Status Apply(const Console& console, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const LayoutFile file, ReadLayoutFile(arguments.file));
  if (!file.document.problems.empty()) {
    return DocumentError("INVALID_LAYOUT", file.path, file.document,
                         file.Check());
  }
  v1::ApplyLayoutRequest request;
  *request.mutable_layout() = file.message;
  request.set_dry_run(arguments.dry_run);
  if (arguments.if_generation.has_value()) {
    request.set_if_generation(*arguments.if_generation);
  }
  const absl::StatusOr<v1::ApplyLayoutResponse> response =
      arguments.Connect().ApplyLayout(request);
  if (!response.ok()) return ExplainRefusal(response.status(), file);
  if (arguments.json()) {
    console.PrintJson(Json::object({{"job", file.message.name()},
                                    {"generation", response->generation()},
                                    {"digest", DigestText(response->digest())},
                                    {"changed", response->changed()},
                                    {"dry_run", arguments.dry_run}}));
    return absl::OkStatus();
  }
  const char* const applied =
      arguments.dry_run ? "would be applied" : "applied";
  console.Print(absl::StrFormat(
      "layout %s %s: generation %d, digest %s%s\n", file.message.name(),
      response->changed() ? applied : "unchanged", response->generation(),
      DigestText(response->digest()),
      arguments.dry_run ? " (dry run: nothing was changed)" : ""));
  return absl::OkStatus();
}

absl::Status GetLayouts(const Console& console, const Arguments& arguments) {
  const CoordinatorClient client = arguments.Connect();
  Json list = Json::array();
  TextTable table({{"JOB"},
                   {"RANKS", Align::kRight},
                   {"MODULES", Align::kRight},
                   {"GENERATION", Align::kRight},
                   {"LIVE MEMBERS", Align::kRight},
                   {"APPLIED"}});
  v1::ListLayoutsRequest request;
  do {
    ASSIGN_OR_RETURN(const v1::ListLayoutsResponse response,
                     client.ListLayouts(request));
    for (const v1::LayoutSummary& layout : response.layouts()) {
      const std::string apply_time = TimeUtil::ToString(layout.apply_time());
      list.push_back({{"name", layout.name()},
                      {"world_size", layout.world_size()},
                      {"module_count", layout.module_count()},
                      {"generation", layout.generation()},
                      {"member_count", layout.member_count()},
                      {"apply_time", apply_time}});
      table.AddRow({layout.name(), absl::StrCat(layout.world_size()),
                    absl::StrCat(layout.module_count()),
                    absl::StrCat(layout.generation()),
                    absl::StrCat(layout.member_count()), apply_time});
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  if (arguments.json()) {
    console.PrintJson(Json::object({{"layouts", list}}));
  } else {
    console.Print(table.Format());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::Member>> ListMembers(
    const CoordinatorClient& client, const std::string& job) {
  std::vector<v1::Member> members;
  v1::ListMembersRequest request;
  request.set_job(job);
  do {
    ASSIGN_OR_RETURN(const v1::ListMembersResponse response,
                     client.ListMembers(request));
    members.insert(members.end(), response.members().begin(),
                   response.members().end());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return members;
}

Json MemberJson(const v1::Member& member) {
  return {{"rank", member.member().rank()},
          {"kind", v1::MemberKind_Name(member.member().kind())},
          {"state", v1::Member::State_Name(member.state())},
          {"phase", member.phase()},
          {"host", member.facts().host()},
          {"pid", member.facts().pid()},
          {"address", member.facts().address()},
          {"device", member.facts().device()},
          {"comm_backend", member.facts().comm_backend()},
          {"incarnation", DigestText(member.incarnation())},
          {"expire_time", TimeUtil::ToString(member.expire_time())}};
}

// A line a member, those of `kind` or all.
TextTable MemberTable(const std::vector<v1::Member>& members) {
  TextTable table({{"RANK", Align::kRight},
                   {"KIND"},
                   {"STATE"},
                   {"PHASE"},
                   {"HOST"},
                   {"PID", Align::kRight},
                   {"ADDRESS"},
                   {"DEVICE"},
                   {"BACKEND"}});
  for (const v1::Member& member : members) {
    const v1::MemberFacts& facts = member.facts();
    table.AddRow({absl::StrCat(member.member().rank()),
                  v1::MemberKind_Name(member.member().kind()),
                  v1::Member::State_Name(member.state()),
                  OrDash(member.phase()), OrDash(facts.host()),
                  absl::StrCat(facts.pid()), OrDash(facts.address()),
                  OrDash(facts.device()), OrDash(facts.comm_backend())});
  }
  return table;
}

absl::Status GetWorkers(const Console& console, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::vector<v1::Member> members,
                   ListMembers(arguments.Connect(), arguments.job));
  Json list = Json::array();
  std::vector<v1::Member> workers;
  for (const v1::Member& member : members) {
    if (member.member().kind() != v1::WORKER) continue;
    list.push_back(MemberJson(member));
    workers.push_back(member);
  }
  if (arguments.json()) {
    console.PrintJson(
        Json::object({{"job", arguments.job}, {"workers", list}}));
  } else {
    console.Print(MemberTable(workers).Format());
  }
  return absl::OkStatus();
}

// Of each kind's member at each rank, its state.
using StateByRank = std::map<std::pair<int64_t, v1::MemberKind>, std::string>;

void AddRank(const Module& module, int64_t index, const StateByRank& states,
             Json& list, TextTable& table) {
  const int64_t rank = module.RankAt(index);
  const Coordinates at = module.CoordinatesAt(index);
  const auto state_of = [&](v1::MemberKind kind) {
    const auto it = states.find({rank, kind});
    return it == states.end() ? std::string() : it->second;
  };
  const std::string trainer = state_of(v1::TRAINER);
  const std::string worker = state_of(v1::WORKER);
  list.push_back({{"rank", rank},
                  {"module", module.name()},
                  {"role", RoleName(module.role())},
                  {"tp", at.tp},
                  {"gtp_remat", at.gtp_remat},
                  {"cp", at.cp},
                  {"dp", at.dp},
                  {"pp", at.pp},
                  {"lane", at.lane},
                  {"trainer", trainer.empty() ? Json() : Json(trainer)},
                  {"worker", worker.empty() ? Json() : Json(worker)}});
  table.AddRow({absl::StrCat(rank), module.name(),
                std::string(RoleName(module.role())), absl::StrCat(at.tp),
                absl::StrCat(at.gtp_remat), absl::StrCat(at.cp),
                absl::StrCat(at.dp), absl::StrCat(at.pp), absl::StrCat(at.lane),
                OrDash(trainer), OrDash(worker)});
}

absl::Status GetRanks(const Console& console, const Arguments& arguments) {
  const CoordinatorClient client = arguments.Connect();
  v1::GetLayoutRequest request;
  request.set_job(arguments.job);
  ASSIGN_OR_RETURN(const v1::GetLayoutResponse response,
                   client.GetLayout(request));
  ASSIGN_OR_RETURN(const Layout layout, LayoutFromProto(response.layout()));
  ASSIGN_OR_RETURN(const std::vector<v1::Member> members,
                   ListMembers(client, arguments.job));
  StateByRank states;
  for (const v1::Member& member : members) {
    states[{member.member().rank(), member.member().kind()}] =
        v1::Member::State_Name(member.state());
  }
  Json list = Json::array();
  TextTable table({{"RANK", Align::kRight},
                   {"MODULE"},
                   {"ROLE"},
                   {"TP", Align::kRight},
                   {"GTP", Align::kRight},
                   {"CP", Align::kRight},
                   {"DP", Align::kRight},
                   {"PP", Align::kRight},
                   {"LANE", Align::kRight},
                   {"TRAINER"},
                   {"WORKER"}});
  for (const Module& module : layout.modules()) {
    for (int64_t i = 0; i < module.rank_count(); ++i) {
      AddRank(module, i, states, list, table);
    }
  }
  if (arguments.json()) {
    console.PrintJson(Json::object({{"job", arguments.job},
                                    {"generation", response.generation()},
                                    {"ranks", list}}));
  } else {
    console.Print(table.Format());
  }
  return absl::OkStatus();
}

absl::Status GetGroups(const Console& console, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const PlanSource source,
                   PlanSource::Open({/*layout_file=*/"", arguments.coordinator,
                                     arguments.job}));
  if (arguments.json()) {
    console.PrintJson(GroupsJson(source.layout()));
  } else {
    console.Print(FormatGroups(source.layout(), console.terminal));
  }
  return absl::OkStatus();
}

void PrintExplanation(const Console& console,
                      const v1::RankExplanation& explanation,
                      const std::vector<v1::Member>& members) {
  const v1::Coordinates& at = explanation.coordinates();
  console.Print(
      absl::StrFormat("rank %d of %s, generation %d\n"
                      "module       %s\n"
                      "coordinates  tp %d, gtp_remat %d, cp %d, dp %d, pp %d\n"
                      "lane         %d\n\n",
                      explanation.rank(), explanation.job(),
                      explanation.generation(), explanation.module(), at.tp(),
                      at.gtp_remat(), at.cp(), at.dp(), at.pp(), at.lane()));
  TextTable groups({{"GROUP"},
                    {"POSITION", Align::kRight},
                    {"SIZE", Align::kRight},
                    {"RANKS"}});
  for (const v1::GroupMembership& group : explanation.groups()) {
    const std::vector<Rank> ranks = RanksOf(group);
    groups.AddRow({absl::StrCat(explanation.module(), "/", group.kind(), "/",
                                group.index()),
                   absl::StrCat(group.position()), absl::StrCat(ranks.size()),
                   FormatRanks(ranks)});
  }
  console.Print(groups.Format());
  console.Print("\n");
  if (members.empty()) {
    console.Print("no process has registered as this rank\n");
  } else {
    console.Print(MemberTable(members).Format());
  }
}

absl::Status DescribeRank(const Console& console, const Arguments& arguments) {
  const CoordinatorClient client = arguments.Connect();
  v1::ExplainRankRequest request;
  request.set_job(arguments.job);
  request.set_rank(arguments.rank);
  ASSIGN_OR_RETURN(const v1::RankExplanation explanation,
                   client.ExplainRank(request));
  ASSIGN_OR_RETURN(const std::vector<v1::Member> all,
                   ListMembers(client, arguments.job));
  std::vector<v1::Member> members;
  for (const v1::Member& member : all) {
    if (member.member().rank() == arguments.rank) members.push_back(member);
  }
  if (!arguments.json()) {
    PrintExplanation(console, explanation, members);
    return absl::OkStatus();
  }
  Json json = RankExplanationJson(explanation);
  json["members"] = Json::array();
  for (const v1::Member& member : members) {
    json["members"].push_back(MemberJson(member));
  }
  console.PrintJson(json);
  return absl::OkStatus();
}

absl::Status Health(const Console& console, const Arguments& arguments) {
  RETURN_IF_ERROR(arguments.Connect().CheckHealth());
  if (arguments.json()) {
    console.PrintJson(Json::object(
        {{"coordinator", arguments.coordinator}, {"status", "SERVING"}}));
  } else {
    console.Print(
        absl::StrCat("coordinator ", arguments.coordinator, " is SERVING\n"));
  }
  return absl::OkStatus();
}

using Command = absl::Status (*)(const Console&, const Arguments&);

// A command of a coordinator, and with `with_job` of one of its jobs.
CLI::App& AddCommand(CLI::App& parent, const std::string& name,
                     const std::string& description, bool with_job, Command run,
                     const std::shared_ptr<Arguments>& arguments,
                     const Console& console, Outcome& outcome) {
  CLI::App& command = *parent.add_subcommand(name, description);
  command
      .add_option("--coordinator", arguments->coordinator,
                  "the coordinator to ask")
      ->required()
      ->type_name("HOST:PORT");
  if (with_job) {
    command.add_option("--job", arguments->job, "job")
        ->required()
        ->type_name("NAME");
  }
  AddOutputOption(command, arguments->format);
  OnChosen(command, outcome,
           [&console, arguments, run] { return run(console, *arguments); });
  return command;
}

}  // namespace

void AddJobCommands(CLI::App& app, const Console& console, Outcome& outcome) {
  const auto arguments = std::make_shared<Arguments>();
  const auto add = [&](CLI::App& parent, const std::string& name,
                       const std::string& description, bool with_job,
                       Command run) -> CLI::App& {
    return AddCommand(parent, name, description, with_job, run, arguments,
                      console, outcome);
  };

  CLI::App& apply =
      add(app, "apply", "Makes a file the layout of its job", false, Apply);
  apply.add_option("-f,--file", arguments->file, "layout file, '-' for stdin")
      ->required()
      ->type_name("FILE");
  apply
      .add_option("--if-generation", arguments->if_generation,
                  "only if this is the generation in force; 0: no such job yet")
      ->type_name("N");
  apply.add_flag("--dry-run", arguments->dry_run,
                 "check and answer, but change nothing");

  CLI::App& get = *app.add_subcommand("get", "Lists what a coordinator has");
  get.require_subcommand(1);
  add(get, "layouts", "The jobs and their layouts", false, GetLayouts);
  add(get, "ranks", "The ranks of a job, and who is there", true, GetRanks);
  add(get, "groups", "The process groups of a job", true, GetGroups);
  add(get, "workers", "The workers of a job", true, GetWorkers);

  CLI::App& describe =
      *app.add_subcommand("describe", "Tells all about one thing");
  describe.require_subcommand(1);
  add(describe, "rank", "Who a rank is, and whom it talks to", true,
      DescribeRank)
      .add_option("rank", arguments->rank, "rank")
      ->required()
      ->type_name("N");

  add(app, "health", "Asks whether the coordinator serves", false, Health);
}

}  // namespace shardwright
