#include "client/cli/describe_commands.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cc/worker_client.h"
#include "client/cli/group_table.h"
#include "client/cli/job_options.h"
#include "client/cli/member_table.h"
#include "client/cli/text_table.h"
#include "client/json/plan_json.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;
using Align = TextTable::Align;

struct Options : JobOptions {
  Rank rank = 0;
};

void PrintExplanation(const Console& console,
                      const v1::RankExplanation& explanation,
                      const std::vector<v1::Member>& members, bool wide) {
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
    groups.AddRow({NameOf(explanation, group), absl::StrCat(group.position()),
                   absl::StrCat(ranks.size()), FormatRanks(ranks)});
  }
  console.Print(groups.Format());
  console.Print("\n");
  if (members.empty()) {
    console.Print("no process has registered as this rank\n");
  } else {
    console.Print(FormatMembers(members, wide, console.terminal));
  }
}

absl::Status DescribeRank(const Console& console, const Options& options) {
  const CoordinatorClient client = options.Connect();
  v1::ExplainRankRequest request;
  request.set_job(options.job);
  request.set_rank(options.rank);
  ASSIGN_OR_RETURN(const v1::RankExplanation explanation,
                   client.ExplainRank(request));
  ASSIGN_OR_RETURN(const std::vector<v1::Member> all,
                   ListMembers(client, options.job));
  std::vector<v1::Member> members;
  for (const v1::Member& member : all) {
    if (member.member().rank() == options.rank) members.push_back(member);
  }
  if (!options.document()) {
    PrintExplanation(console, explanation, members, options.wide());
    return absl::OkStatus();
  }
  Json json = RankExplanationJson(explanation);
  json["members"] = MembersJson(members);
  console.PrintDocument(json, options.format);
  return absl::OkStatus();
}

// The rank's worker, as it has registered.
absl::StatusOr<v1::Member> FindWorker(const Options& options) {
  ASSIGN_OR_RETURN(const std::vector<v1::Member> members,
                   ListMembers(options.Connect(), options.job));
  for (const v1::Member& member : members) {
    if (member.member().rank() == options.rank &&
        member.member().kind() == v1::WORKER) {
      return member;
    }
  }
  // A rank that the layout lacks is another mistake.
  v1::ExplainRankRequest request;
  request.set_job(options.job);
  request.set_rank(options.rank);
  RETURN_IF_ERROR(options.Connect().ExplainRank(request).status());
  return Error(absl::StatusCode::kNotFound, "WORKER_NOT_FOUND",
               absl::StrCat("no worker has registered as rank ", options.rank,
                            " of job '", options.job, "'"),
               {{"rank", absl::StrCat(options.rank)}});
}

absl::StatusOr<v1::WorkerDescription> AskWorker(const v1::Member& worker) {
  const std::string& address = worker.facts().address();
  WorkerClient::Options options;
  options.call_timeout = absl::Seconds(10);
  options.retry_timeout = absl::Seconds(3);
  const absl::StatusOr<v1::WorkerDescription> answer =
      WorkerClient::Create(address, options).Describe();
  if (!answer.ok()) {
    return WithHint(answer.status(),
                    absl::StrCat("the coordinator has it as ",
                                 v1::Member::State_Name(worker.state()),
                                 " on host ", worker.facts().host()));
  }
  const v1::MemberId& member = answer->member();
  if (member.job() != worker.member().job() ||
      member.rank() != worker.member().rank()) {
    return Error(absl::StatusCode::kAborted, "OTHER_WORKER",
                 absl::StrCat("at ", address, " answers the worker of rank ",
                              member.rank(), " of job '", member.job(),
                              "': the one that registered there is gone"),
                 {{"address", address}});
  }
  return answer;
}

Json SessionsJson(const v1::WorkerDescription& worker) {
  Json sessions = Json::array();
  for (const v1::SessionDescription& session : worker.sessions()) {
    sessions.push_back({{"segment_count", session.segment_count()},
                        {"region_count", session.region_count()},
                        {"region_bytes", session.region_bytes()},
                        {"table_count", session.table_count()},
                        {"order", TextOrNull(session.order())},
                        {"order_reason", TextOrNull(session.order_reason())}});
  }
  return sessions;
}

Json WorkerJson(const v1::WorkerDescription& worker) {
  Json cliques = Json::array();
  for (const v1::CliqueDescription& clique : worker.cliques()) {
    cliques.push_back(
        {{"name", clique.name()},
         {"attempt", clique.attempt() == 0 ? Json() : Json(clique.attempt())},
         {"state", clique.state()},
         {"ranks",
          std::vector<int64_t>(clique.ranks().begin(), clique.ranks().end())}});
  }
  return {{"job", worker.member().job()},
          {"rank", worker.member().rank()},
          {"generation", worker.generation()},
          {"phase", TextOrNull(worker.phase())},
          {"host", worker.facts().host()},
          {"pid", worker.facts().pid()},
          {"address", worker.facts().address()},
          {"device", worker.facts().device()},
          {"gpu_name", TextOrNull(worker.gpu_name())},
          {"comm_backend", worker.facts().comm_backend()},
          {"nccl_version", TextOrNull(worker.facts().nccl_version())},
          {"tables_resident", worker.tables_resident()},
          {"table_bytes", worker.table_bytes()},
          {"context_memory_bytes", worker.context_memory_bytes()},
          {"session_count", worker.session_count()},
          {"copied_bytes", worker.copied_bytes()},
          {"sessions", SessionsJson(worker)},
          {"cliques", std::move(cliques)}};
}

// "GPU-8f0c (NVIDIA H200), nccl 2.28.9"
std::string FormatDevice(const v1::WorkerDescription& worker) {
  const v1::MemberFacts& facts = worker.facts();
  std::string text = OrDash(facts.device());
  if (!worker.gpu_name().empty()) {
    absl::StrAppend(&text, " (", worker.gpu_name(), ")");
  }
  absl::StrAppend(&text, ", ", OrDash(facts.comm_backend()));
  if (!facts.nccl_version().empty()) {
    absl::StrAppend(&text, " ", facts.nccl_version());
  }
  return text;
}

// A line a session, with why its order is what it is if `wide`.
std::string FormatSessions(const v1::WorkerDescription& worker, bool wide) {
  std::vector<TextTable::Column> columns = {{"SEGMENTS", Align::kRight},
                                            {"REGIONS", Align::kRight},
                                            {"BYTES", Align::kRight},
                                            {"TABLES", Align::kRight},
                                            {"ORDER"}};
  if (wide) columns.push_back({"REASON"});
  TextTable sessions(std::move(columns));
  for (const v1::SessionDescription& session : worker.sessions()) {
    std::vector<std::string> cells = {absl::StrCat(session.segment_count()),
                                      absl::StrCat(session.region_count()),
                                      absl::StrCat(session.region_bytes()),
                                      absl::StrCat(session.table_count()),
                                      OrDash(session.order())};
    if (wide) cells.push_back(OrDash(session.order_reason()));
    sessions.AddRow(std::move(cells));
  }
  return sessions.Format();
}

std::string FormatWorker(const v1::WorkerDescription& worker, bool wide,
                         const Terminal& terminal) {
  const v1::MemberFacts& facts = worker.facts();
  std::string text = absl::StrFormat(
      "worker of rank %d of %s, generation %d\n"
      "phase        %s\n"
      "process      %d on %s, serves at %s\n"
      "device       %s\n"
      "tables       %d on the device, %d bytes\n"
      "context      %d bytes of the GPU\n"
      "sessions     %d open\n"
      "copied       %d bytes since it started\n",
      worker.member().rank(), worker.member().job(), worker.generation(),
      OrDash(worker.phase()), facts.pid(), OrDash(facts.host()),
      OrDash(facts.address()), FormatDevice(worker), worker.tables_resident(),
      worker.table_bytes(), worker.context_memory_bytes(),
      worker.session_count(), worker.copied_bytes());
  TextTable cliques({{"CLIQUE"},
                     {"STATE"},
                     {"ATTEMPT", Align::kRight},
                     {"SIZE", Align::kRight},
                     {"RANKS"}});
  for (const v1::CliqueDescription& clique : worker.cliques()) {
    cliques.AddRow(
        {clique.name(), FormatState(clique.state(), terminal),
         clique.attempt() == 0 ? "-" : absl::StrCat(clique.attempt()),
         absl::StrCat(clique.ranks_size()),
         FormatRanks(
             std::vector<Rank>(clique.ranks().begin(), clique.ranks().end()))});
  }
  if (worker.sessions_size() > 0) {
    absl::StrAppend(&text, "\n", FormatSessions(worker, wide));
  }
  return absl::StrCat(text, "\n", cliques.Format());
}

absl::Status DescribeWorker(const Console& console, const Options& options) {
  ASSIGN_OR_RETURN(const v1::Member worker, FindWorker(options));
  ASSIGN_OR_RETURN(const v1::WorkerDescription description, AskWorker(worker));
  if (options.document()) {
    console.PrintDocument(WorkerJson(description), options.format);
  } else {
    console.Print(FormatWorker(description, options.wide(), console.terminal));
  }
  return absl::OkStatus();
}

}  // namespace

void AddDescribeCommands(CLI::App& app, Console& console, Outcome& outcome) {
  CLI::App& describe =
      *app.add_subcommand("describe", "Tells all about one thing");
  describe.require_subcommand(1);
  const auto options = std::make_shared<Options>();
  const auto add = [&](const std::string& name, const std::string& description,
                       absl::Status (*run)(const Console&, const Options&)) {
    AddJobCommand(describe, name, description, JobNeed::kRequired, *options,
                  console, outcome,
                  [&console, options, run] { return run(console, *options); })
        .add_option("rank", options->rank, "rank")
        ->required()
        ->transform(Integer())
        ->type_name("N");
  };
  add("rank", "Who a rank is, and whom it talks to", DescribeRank);
  add("worker", "What a rank's worker says of itself", DescribeWorker);
}

}  // namespace shardwright
