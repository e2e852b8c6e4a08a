// What people and programs are told about ranks, cliques and costs.

#include <optional>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cli/clique_report.h"
#include "client/cli/comparison.h"
#include "client/cli/event_table.h"
#include "client/cli/member_table.h"
#include "client/cli/placement_report.h"
#include "client/cli/route_report.h"
#include "client/cli/yaml_text.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "yaml-cpp/yaml.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

TEST(YamlTest, IsTheSameDocumentInTheSameOrder) {
  const Json json = Json::parse(
      R"({"b":1,"a":{"z":null,"two":[1,2],"x":[[4,5],[]]},"empty":{},)"
      R"("list":[{"s":1.5,"t":true}]})");
  EXPECT_EQ(FormatYaml(json),
            "b: 1\n"
            "a:\n"
            "  z: null\n"
            "  two: [1, 2]\n"
            "  x:\n"
            "    - [4, 5]\n"
            "    - []\n"
            "empty:\n"
            "  {}\n"
            "list:\n"
            "  - s: 1.5\n"
            "    t: true");
}

TEST(YamlTest, StringsStayStringsForEveryReader) {
  for (const char* text : {"12",
                           "0x1f",
                           "1e5",
                           "true",
                           "Yes",
                           "off",
                           "null",
                           "~",
                           "",
                           "-",
                           ": ",
                           "a: b",
                           "# no",
                           "- x",
                           "{",
                           "it's \"so\"",
                           "two\nlines",
                           " edge ",
                           "0000000000001234",
                           "1_000",
                           "12:30",
                           "é",
                           "main-job",
                           "language/tp/3",
                           ".inf",
                           "=",
                           "<<",
                           "@x",
                           "%x",
                           "\t"}) {
    const YAML::Node node = YAML::Load(FormatYaml(Json{{"key", text}}))["key"];
    EXPECT_EQ(node.as<std::string>(), text);
    const bool plain = node.Tag() == "?";
    EXPECT_TRUE(!plain || std::string(text) == "main-job" ||
                std::string(text) == "language/tp/3")
        << "'" << text << "' must be quoted";
  }
}

// Encoder ranks 0-3, language ranks from 4 on.
Layout LayoutOf(int64_t language_ranks, ModuleSpec language) {
  LayoutSpec spec;
  spec.name = "vlm";
  spec.world_size = 4 + language_ranks;
  ModuleSpec images;
  images.name = "images";
  images.role = Role::kEncoder;
  images.first_rank = 0;
  images.rank_count = 4;
  language.name = "language";
  language.role = Role::kLanguage;
  if (language.ranks.empty()) {
    language.first_rank = 4;
    language.rank_count = language_ranks;
  }
  spec.modules = {images, language};
  spec.edges = {{"images", "language"}};
  absl::StatusOr<Layout> layout = Layout::Create(spec);
  EXPECT_TRUE(layout.ok()) << layout.status();
  return *std::move(layout);
}

std::vector<Rank> RanksOf(const MembersPlace& group) {
  std::vector<int64_t> indexes = {group.first_index};
  for (const Axis& axis : group.axes) {
    std::vector<int64_t> more;
    for (int64_t i = 0; i < axis.count; ++i) {
      for (int64_t index : indexes) more.push_back(index + i * axis.stride);
    }
    indexes = std::move(more);
  }
  std::vector<Rank> ranks;
  for (int64_t index : indexes) ranks.push_back(group.module->RankAt(index));
  return ranks;
}

void ExpectReportsAreTheGroupsOf(const Layout& layout) {
  for (Rank rank = 0; rank < layout.world_size(); ++rank) {
    const absl::StatusOr<PlacementReport> report =
        ReportPlacement(layout, rank);
    ASSERT_TRUE(report.ok());
    size_t kinds = report->absent.size();
    for (const GroupPlace& group : report->groups) {
      SCOPED_TRACE(testing::Message() << group.group.name() << " of " << rank);
      std::vector<Rank> ranks;
      if (group.parts.empty()) ranks = RanksOf(group.own);
      for (const MembersPlace& part : group.parts) {
        for (Rank member : RanksOf(part)) ranks.push_back(member);
      }
      EXPECT_EQ(ranks, RanksOf(layout, group.group));
      EXPECT_EQ(static_cast<int64_t>(ranks.size()), group.size);
      EXPECT_EQ(ranks[group.position], rank);
      ++kinds;
    }
    for (const DimensionPlace& place : report->base) {
      EXPECT_EQ(report->index / place.stride % place.size, place.coordinate);
    }
    EXPECT_EQ(kinds, report->module->role() == Role::kLanguage ? 23u : 21u);
  }
}

TEST(PlacementReportTest, EveryRankIsToldItsGroupsWhateverTheOrder) {
  for (const char* order :
       {"", "tp-cp-dp-pp-gtp_remat", "pp-dp-cp-tp", "cp-pp-gtp_remat-tp-dp"}) {
    SCOPED_TRACE(order);
    ModuleSpec language;
    language.tp = 2;
    language.cp = 2;
    language.pp = 3;
    language.ep = 2;
    language.order = order;
    ExpectReportsAreTheGroupsOf(LayoutOf(48, language));
  }
}

TEST(PlacementReportTest, ListedRanksKeepTheirOrder) {
  ModuleSpec language;
  language.ranks = {11, 4, 6, 5, 9, 8, 7, 10};
  language.tp = 2;
  language.pp = 2;
  const Layout layout = LayoutOf(8, language);
  ExpectReportsAreTheGroupsOf(layout);
  const std::string text =
      FormatPlacement(*ReportPlacement(layout, 6), true, Terminal());
  EXPECT_NE(text.find("language/tp/1                  2         0"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("6, 5 "), std::string::npos) << text;
}

TEST(PlacementReportTest, ShowsTheArithmeticAndWhatVaries) {
  ModuleSpec language;
  language.tp = 2;
  language.cp = 4;
  language.pp = 2;
  const Layout layout = LayoutOf(64, language);
  const std::string text =
      FormatPlacement(*ReportPlacement(layout, 37), false, Terminal());
  for (const char* line :
       {"its index there is 37 - 4 = 33\n",
        "dp            4       8  33 / 8 mod 4 = 0\n",
        "pp            2      32  33 / 32 mod 2 = 1\n",
        "language/tp/16                 2   *   0   0    1  36-37\n",
        "language/cp/9                  4   1   *   0    1  37, 39, 41, 43\n",
        "language/dp_cp/3              16   1   *   *    1  "
        "37, 39, 41, ..., 67\n",
        "language/embd/1                2   1   0   0  0,1  5, 37\n",
        "not in pos_embd, bridge\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
}

TEST(PlacementReportTest, MillionRanksTakeNoMoreTextThanEight) {
  ModuleSpec language;
  language.tp = 8;
  language.cp = 8;
  language.pp = 8;
  const Layout layout = LayoutOf(1000000 - 4 - 60, language);
  const PlacementReport report = *ReportPlacement(layout, 500001);
  EXPECT_LT(FormatPlacement(report, true, Terminal()).size(), 8000u);
  EXPECT_LT(PlacementJson(report).dump().size(), 8000u);
}

TEST(PlacementReportTest, JsonHasTheShapeOfTheContract) {
  ModuleSpec language;
  language.tp = 2;
  language.cp = 2;
  const Layout layout = LayoutOf(8, language);
  const Json json = PlacementJson(*ReportPlacement(layout, 7));
  EXPECT_EQ(json["module"].dump(),
            R"({"name":"language","role":"language","rank_count":8,)"
            R"("rank_runs":[[4,8]]})");
  EXPECT_EQ(json["dimensions"][1].dump(),
            R"({"name":"cp","size":2,"stride":2,"coordinate":1})");
  EXPECT_EQ(json["groups"][1].dump(),
            R"({"name":"language/cp/1","kind":"cp","index":1,"position":1,)"
            R"("size":2,"view":"base","varies":["cp"],)"
            R"("fixed":{"tp":1,"dp":0},"first_index":1,)"
            R"("axes":[{"count":2,"stride":2}],"parts":null})");
  EXPECT_EQ(json["groups"].back().dump(),
            R"({"name":"language/bridge/0","kind":"bridge","index":0,)"
            R"("position":3,"size":12,"view":"base",)"
            R"("varies":["tp","cp","dp"],"fixed":{},"first_index":0,)"
            R"("axes":[{"count":8,"stride":1}],"parts":[)"
            R"({"module":"language","rank_runs":[[4,8]],"size":8,)"
            R"("first_index":0,"axes":[{"count":8,"stride":1}]},)"
            R"({"module":"images","rank_runs":[[0,4]],"size":4,)"
            R"("first_index":0,"axes":[{"count":4,"stride":1}]}]})");
  EXPECT_EQ(json["absent"].dump(), "[]");
}

TEST(ComparisonTest, HasALineForEachSizeAndScheme) {
  const Comparison comparison = {{60, 4}, /*tp=*/1, /*cps=*/{1, 2}};
  const std::string text = FormatComparison(comparison, false, Terminal());
  EXPECT_EQ(text.substr(0, text.find("\n\ntokens")),
            "2 documents, 64 tokens, longest 60\n\n"
            "cp  scheme               padding          tokens   work"
            "                            speed\n"
            " 1  any scheme                 0  0.00 %   1.000  1.000"
            "  #################         1.00x\n"
            " 2  contiguous                 0  0.00 %   1.000  1.426"
            "  #################-------  1.40x\n"
            "    whole pack zigzag          0  0.00 %   1.000  1.130"
            "  #################--       1.77x\n"
            "    per document zigzag        0  0.00 %   1.000  1.000"
            "  #################         2.00x");
}

TEST(ComparisonTest, JsonHasTheShapeOfTheContract) {
  const Json json = ComparisonJson({{6, 2}, /*tp=*/1, /*cps=*/{2}});
  EXPECT_EQ(json["documents"], 2);
  EXPECT_EQ(json["longest"], 6);
  EXPECT_EQ(json["sizes"][0]["schemes"][0].dump(),
            R"({"scheme":"contiguous","seq_length":8,"padding_tokens":0,)"
            R"("padding_share":0.0,"work_max":14,"work_mean":12.0,)"
            R"("work_max_over_mean":1.1666666666666667,"tokens_max":4,)"
            R"("tokens_mean":4.0,"tokens_max_over_mean":1.0,"ranks":[)"
            R"({"cp_rank":0,"tokens":4,"work":10},)"
            R"({"cp_rank":1,"tokens":4,"work":14}]})");
}

v1::CliqueExplanation WaitingClique() {
  v1::CliqueExplanation explanation;
  v1::CliqueSummary& clique = *explanation.mutable_clique();
  clique.set_name("language/tp/0");
  clique.set_kind(v1::WORKER);
  clique.set_state(v1::CliqueSummary::GATHERING);
  clique.mutable_attempt()->set_number(2);
  clique.set_backend(v1::GLOO);
  clique.set_done_count(1);
  clique.set_member_count(4);
  clique.mutable_missing()->set_ranges("5-7");
  clique.mutable_missing()->set_rank_count(3);
  clique.set_last_abort_reason("PEER_LOST");
  clique.set_last_abort_message("rank 5 was lost");
  for (int64_t rank : {5, 6, 7}) {
    v1::CliqueMember& member = *explanation.add_members();
    member.set_position(rank - 4);
    member.set_state(v1::CliqueMember::ABSENT);
    member.set_blocking(true);
    v1::Member& process = *member.mutable_member();
    process.mutable_member()->set_rank(rank);
    process.set_state(v1::Member::UNREGISTERED);
  }
  v1::Member& lost = *explanation.mutable_members(0)->mutable_member();
  lost.set_state(v1::Member::LOST);
  lost.mutable_facts()->set_host("host-a");
  lost.set_phase("forming");
  return explanation;
}

TEST(CliqueReportTest, SaysWhoBlocksAndWhatToDo) {
  EXPECT_EQ(
      FormatCliqueExplanation(WaitingClique(), 2, absl::Now(), Terminal()),
      "language/tp/0 is GATHERING: attempt 2 waits for 3 of 4 workers to come\n"
      "the attempt before it ended with PEER_LOST: rank 5 was lost\n"
      "\n"
      "RANK  DID     BLOCKS  STATE         PHASE    HOST    LAST SEEN\n"
      "   5  ABSENT  yes     LOST          forming  host-a  -\n"
      "   6  ABSENT  yes     UNREGISTERED  -        -       -\n"
      "and 1 more; -o wide shows all\n"
      "\n"
      "what to do\n"
      "  rank 5: the lease ran out: died, hangs, or cannot reach the "
      "coordinator;\n"
      "    look at host and log, and start again\n"
      "  ranks 6-7: no process has registered;\n"
      "    start it, or look at why it did not start\n");
}

// What to do, where rank 7 lives and was last seen so long before.
std::string AdviceOnLiving(absl::Duration age, const std::string& phase) {
  const absl::Time now = absl::FromUnixSeconds(1000);
  v1::CliqueExplanation explanation = WaitingClique();
  v1::Member& living = *explanation.mutable_members(2)->mutable_member();
  living.set_state(v1::Member::LIVE);
  living.set_phase(phase);
  living.mutable_last_seen_time()->set_seconds(absl::ToUnixSeconds(now - age));
  living.mutable_expire_time()->set_seconds(
      absl::ToUnixSeconds(now - age + absl::Seconds(30)));
  const std::string text =
      FormatCliqueExplanation(explanation, 2, now, Terminal());
  return text.substr(text.find("  rank 7:"));
}

TEST(CliqueReportTest, PagesOfOneAttemptAreJoinedAndOthersRefused) {
  const v1::CliqueExplanation page = WaitingClique();
  v1::CliqueExplanation whole = page;
  whole.set_next_page_token("3");
  EXPECT_TRUE(AppendPage(page, whole));
  EXPECT_EQ(whole.members_size(), 6);
  EXPECT_EQ(whole.clique().DebugString(), page.clique().DebugString());
  EXPECT_EQ(whole.next_page_token(), "");
  const std::string before = whole.DebugString();
  v1::CliqueExplanation other = page;
  other.mutable_clique()->mutable_attempt()->set_number(3);
  EXPECT_FALSE(AppendPage(other, whole));
  other = page;
  other.mutable_clique()->mutable_attempt()->set_term(9);
  EXPECT_FALSE(AppendPage(other, whole));
  other = page;
  other.set_generation(2);
  EXPECT_FALSE(AppendPage(other, whole));
  EXPECT_EQ(whole.DebugString(), before);
}

TEST(CliqueReportTest, SilentMemberIsNotSaidToBeBusy) {
  EXPECT_EQ(AdviceOnLiving(absl::Seconds(16), "step 3"),
            "  rank 7: not heard from for 16 s, and the lease ends in 14 s;\n"
            "    look at host and log: may have died, or hang\n");
  EXPECT_EQ(AdviceOnLiving(absl::Seconds(40), "step 3"),
            "  rank 7: not heard from for 40 s, and the lease ends in 0 s;\n"
            "    look at host and log: may have died, or hang\n");
}

TEST(CliqueReportTest, LivingMemberIsBusyOrWasStartedWithOtherKinds) {
  EXPECT_EQ(AdviceOnLiving(absl::Seconds(15), "step 3"),
            "  rank 7: lives, and has not asked for this clique;\n"
            "    busy with 'step 3', or started with other --kinds\n");
  EXPECT_EQ(AdviceOnLiving(absl::Seconds(1), "forming language/tp/0"),
            "  rank 7: lives, and is about to ask for this clique\n");
}

TEST(CliqueReportTest, WorkerAtRestIsNotSaidToBeBusy) {
  EXPECT_EQ(AdviceOnLiving(absl::Seconds(1), "ready"),
            "  rank 7: lives, and has not asked for this clique;\n"
            "    ready without it, so started with other --kinds\n");
}

TEST(CliqueReportTest, SeveralWhoLeftAreSpokenOfAsSeveral) {
  v1::CliqueExplanation explanation = WaitingClique();
  for (int i : {1, 2}) {
    explanation.mutable_members(i)->mutable_member()->set_state(
        v1::Member::LEFT);
  }
  const std::string text =
      FormatCliqueExplanation(explanation, 2, absl::Now(), Terminal());
  EXPECT_EQ(text.substr(text.find("  ranks ")),
            "  ranks 6-7: left in good order;\n    start again\n");
}

TEST(CliqueReportTest, IdleSaysNothingOfThePast) {
  v1::CliqueExplanation explanation;
  explanation.mutable_clique()->set_name("language/tp/0");
  explanation.mutable_clique()->set_kind(v1::WORKER);
  explanation.mutable_clique()->set_state(v1::CliqueSummary::IDLE);
  explanation.mutable_clique()->set_member_count(2);
  EXPECT_EQ(FormatCliqueExplanation(explanation, 2, absl::Now(), Terminal()),
            "language/tp/0 is IDLE: no worker asks for it now\n");
}

TEST(CliqueReportTest, JsonHasNullForWhatIsNotThere) {
  v1::CliqueSummary idle;
  idle.set_name("language/tp/0");
  idle.set_kind(v1::WORKER);
  idle.set_state(v1::CliqueSummary::IDLE);
  idle.set_member_count(2);
  // Of the attempt that would be the next.
  idle.mutable_attempt()->set_term(1);
  idle.mutable_attempt()->set_number(1);
  EXPECT_EQ(CliqueJson(idle).dump(),
            R"({"name":"language/tp/0","kind":"WORKER","state":"IDLE",)"
            R"("term":null,"attempt":null,"backend":null,"done_count":0,)"
            R"("member_count":2,"missing":null,"last_abort_reason":null,)"
            R"("last_abort_message":null})");
  EXPECT_EQ(CliqueJson(WaitingClique().clique())["missing"].dump(),
            R"({"ranges":"5-7","rank_count":3,"truncated":false,)"
            R"("report":null})");
  EXPECT_EQ(CliqueJson(WaitingClique().clique())["attempt"], 2);
}

TEST(CliqueReportTest, IdleHasNoAttemptInTheTable) {
  v1::CliqueSummary clique = WaitingClique().clique();
  EXPECT_NE(FormatCliques({clique}, /*wide=*/false, Terminal())
                .find("  GATHERING        2   1/4  "),
            std::string::npos);
  clique.set_state(v1::CliqueSummary::IDLE);
  EXPECT_NE(FormatCliques({clique}, /*wide=*/false, Terminal())
                .find("  IDLE         -   1/4  "),
            std::string::npos);
}

TEST(MemberTableTest, JsonHasNullForWhatIsNotKnown) {
  v1::Member member;
  member.mutable_member()->set_rank(0);
  member.mutable_member()->set_kind(v1::WORKER);
  member.set_state(v1::Member::UNREGISTERED);
  EXPECT_EQ(MemberJson(member).dump(),
            R"({"rank":0,"kind":"WORKER","state":"UNREGISTERED",)"
            R"("phase":null,"host":null,"pid":null,"address":null,)"
            R"("device":null,"comm_backend":null,"incarnation":null,)"
            R"("expire_time":null,"last_seen_time":null})");
  member.set_phase("ready");
  member.set_incarnation(10);
  member.mutable_facts()->set_pid(7);
  EXPECT_EQ(MemberJson(member)["phase"], "ready");
  EXPECT_EQ(MemberJson(member)["incarnation"], "000000000000000a");
  EXPECT_EQ(MemberJson(member)["pid"], 7);
  member.mutable_last_seen_time()->set_seconds(1);
  EXPECT_EQ(MemberJson(member)["last_seen_time"], "1970-01-01T00:00:01Z");
}

TEST(EventTableTest, SaysHowManyAreGone) {
  EXPECT_EQ(FormatDropped(0), "");
  EXPECT_EQ(FormatDropped(12),
            "12 events are no longer kept; the coordinator's log has them\n");
}

TEST(EventTableTest, LinesUpUnderTitles) {
  v1::Event event;
  event.set_number(7);
  event.mutable_time()->set_seconds(60);
  event.set_type("member_lost");
  event.set_text("job=vlm rank=3");
  EXPECT_EQ(FormatEvents({event}),
            "NUMBER  TIME                  TYPE         WHAT\n"
            "     7  1970-01-01T00:01:00Z  member_lost  job=vlm rank=3\n");
}

TEST(RouteTest, SaysWhatABroadcastWouldHaveCost) {
  LayoutSpec spec;
  spec.name = "tiny";
  spec.world_size = 3;
  spec.modules.resize(2);
  spec.modules[0].name = "images";
  spec.modules[0].role = Role::kEncoder;
  spec.modules[0].ranks = {0};
  spec.modules[1].name = "language";
  spec.modules[1].role = Role::kLanguage;
  spec.modules[1].ranks = {1, 2};
  spec.modules[1].cp = 2;
  spec.edges = {{"images", "language"}};
  const Layout layout = *Layout::Create(spec);
  RoutePlan plan;
  plan.digest = 0xabcd;
  plan.pack = *CopyTable::Create({}, {12}, 0);
  plan.parts = {{0, {0, 12}}};
  plan.edges.push_back({"images", 0, {}});
  EXPECT_EQ(FormatRoute(layout, {plan}, std::nullopt),
            "tiny: digest 000000000000abcd\n\n"
            "no row goes from an encoder to the language module\n");
  plan.edges[0].transfers = {{2, {{0, 2}, {3, 9}}, 11, 0, -1, {0, 11}},
                             {1, {{2, 1}}, 1, -1, 2, {0, 1}}};
  EXPECT_EQ(FormatRoute(layout, {plan}, 100),
            "tiny: digest 000000000000abcd\n\n"
            "edge              source  destination  rows  runs  bytes\n"
            "images->language       0            1     1     1    100\n"
            "images->language       0            2    11     2   1100\n\n"
            "received in all: 12 rows, 1200 bytes\n"
            "if broadcast:    24 rows, 2400 bytes, 2.0 times as much\n");
}

}  // namespace
}  // namespace shardwright
