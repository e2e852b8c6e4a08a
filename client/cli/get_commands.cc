#include "client/cli/get_commands.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/cli/clique_report.h"
#include "client/cli/event_table.h"
#include "client/cli/group_table.h"
#include "client/cli/job_options.h"
#include "client/cli/member_table.h"
#include "client/cli/plan_source.h"
#include "client/cli/text_table.h"
#include "client/json/plan_json.h"
#include "google/protobuf/util/time_util.h"
#include "proto/plan/codec.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;
using Align = TextTable::Align;
using google::protobuf::util::TimeUtil;

struct Options : JobOptions {
  bool only_inactive = false;
  int64_t after = 0;
};

absl::Status GetLayouts(const Console& console, const Options& options) {
  const CoordinatorClient client = options.Connect();
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
  if (options.document()) {
    console.PrintDocument(Json::object({{"layouts", list}}), options.format);
  } else {
    console.Print(table.Format());
  }
  return absl::OkStatus();
}

// The members of a kind, or of both, under `key`.
absl::Status PrintMembers(const Console& console, const Options& options,
                          const std::string& key, bool only_workers) {
  ASSIGN_OR_RETURN(std::vector<v1::Member> members,
                   ListMembers(options.Connect(), options.job));
  if (only_workers) {
    members.erase(std::remove_if(members.begin(), members.end(),
                                 [](const v1::Member& member) {
                                   return member.member().kind() != v1::WORKER;
                                 }),
                  members.end());
  }
  if (options.document()) {
    console.PrintDocument(
        Json::object({{"job", options.job}, {key, MembersJson(members)}}),
        options.format);
  } else {
    console.Print(FormatMembers(members, options.wide(), console.terminal));
  }
  return absl::OkStatus();
}

absl::Status GetMembers(const Console& console, const Options& options) {
  return PrintMembers(console, options, "members", /*only_workers=*/false);
}

absl::Status GetWorkers(const Console& console, const Options& options) {
  return PrintMembers(console, options, "workers", /*only_workers=*/true);
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
                absl::StrCat(RoleName(module.role())), absl::StrCat(at.tp),
                absl::StrCat(at.gtp_remat), absl::StrCat(at.cp),
                absl::StrCat(at.dp), absl::StrCat(at.pp), absl::StrCat(at.lane),
                OrDash(trainer), OrDash(worker)});
}

absl::Status GetRanks(const Console& console, const Options& options) {
  const CoordinatorClient client = options.Connect();
  v1::GetLayoutRequest request;
  request.set_job(options.job);
  ASSIGN_OR_RETURN(const v1::GetLayoutResponse response,
                   client.GetLayout(request));
  ASSIGN_OR_RETURN(const Layout layout, LayoutFromProto(response.layout()));
  ASSIGN_OR_RETURN(const std::vector<v1::Member> members,
                   ListMembers(client, options.job));
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
  if (options.document()) {
    console.PrintDocument(Json::object({{"job", options.job},
                                        {"generation", response.generation()},
                                        {"ranks", list}}),
                          options.format);
  } else {
    console.Print(table.Format());
  }
  return absl::OkStatus();
}

absl::Status GetGroups(const Console& console, const Options& options) {
  ASSIGN_OR_RETURN(
      const PlanSource source,
      PlanSource::Open({/*layout_file=*/"", options.coordinator, options.job}));
  const Layout& layout = source.layout();
  if (options.document()) {
    console.PrintDocument(GroupsJson(layout), options.format);
  } else {
    console.Print(FormatGroups(layout, console.terminal));
  }
  return absl::OkStatus();
}

absl::Status GetCommunicators(const Console& console, const Options& options) {
  const CoordinatorClient client = options.Connect();
  std::vector<v1::CliqueSummary> cliques;
  v1::ListCommunicatorsRequest request;
  request.set_job(options.job);
  request.set_only_inactive(options.only_inactive);
  do {
    ASSIGN_OR_RETURN(const v1::ListCommunicatorsResponse response,
                     client.ListCommunicators(request));
    cliques.insert(cliques.end(), response.cliques().begin(),
                   response.cliques().end());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  if (!options.document()) {
    console.Print(FormatCliques(cliques, options.wide(), console.terminal));
    return absl::OkStatus();
  }
  Json list = Json::array();
  for (const v1::CliqueSummary& clique : cliques) {
    list.push_back(CliqueJson(clique));
  }
  console.PrintDocument(
      Json::object({{"job", options.job}, {"communicators", std::move(list)}}),
      options.format);
  return absl::OkStatus();
}

absl::Status GetEvents(const Console& console, const Options& options) {
  const CoordinatorClient client = options.Connect();
  std::vector<v1::Event> events;
  int64_t dropped_count = 0;
  v1::ListEventsRequest request;
  request.set_job(options.job);
  request.set_after(options.after);
  request.set_page_size(1000);
  for (;;) {
    ASSIGN_OR_RETURN(const v1::ListEventsResponse response,
                     client.ListEvents(request));
    if (events.empty()) dropped_count = response.dropped_count();
    if (response.events().empty()) break;
    events.insert(events.end(), response.events().begin(),
                  response.events().end());
    request.set_after(response.events().rbegin()->number());
  }
  if (options.document()) {
    Json list = Json::array();
    for (const v1::Event& event : events) list.push_back(EventJson(event));
    console.PrintDocument(Json::object({{"job", options.job},
                                        {"dropped_count", dropped_count},
                                        {"events", std::move(list)}}),
                          options.format);
  } else {
    console.Print(FormatDropped(dropped_count));
    console.Print(FormatEvents(events));
  }
  return absl::OkStatus();
}

}  // namespace

void AddGetCommands(CLI::App& app, Console& console, Outcome& outcome) {
  CLI::App& get = *app.add_subcommand("get", "Lists what a coordinator has");
  get.require_subcommand(1);
  const auto options = std::make_shared<Options>();
  using Command = absl::Status (*)(const Console&, const Options&);
  const auto add = [&](const std::string& name, const std::string& description,
                       JobNeed need, Command run) -> CLI::App& {
    return AddJobCommand(
        get, name, description, need, *options, console, outcome,
        [&console, options, run] { return run(console, *options); });
  };
  add("layouts", "The jobs and their layouts", JobNeed::kNone, GetLayouts);
  add("ranks", "The ranks of a job, and who is there", JobNeed::kRequired,
      GetRanks);
  add("groups", "The process groups of a job", JobNeed::kRequired, GetGroups);
  add("members", "The trainers and workers of a job", JobNeed::kRequired,
      GetMembers);
  add("workers", "The workers of a job", JobNeed::kRequired, GetWorkers);
  add("communicators", "The cliques that members form, and how far they are",
      JobNeed::kRequired, GetCommunicators)
      .add_flag("--inactive", options->only_inactive,
                "only those that are not ACTIVE");
  add("events", "What has happened lately in a job", JobNeed::kRequired,
      GetEvents)
      .add_option("--after", options->after, "only events after this number")
      ->transform(Integer())
      ->type_name("N");
}

}  // namespace shardwright
