// The shapes are a contract with every program that reads them: these tests
// compare whole texts, key order included.

#include "client/json/plan_json.h"

#include "gtest/gtest.h"

namespace shardwright {
namespace {

// cp 0, tp 1 of a dense sample of 8 with cp 2, tp 2 and B = 2.
ShardPlan FirstStage() {
  ShardPlan plan;
  plan.digest = 0xabcd;
  plan.rank = 5;
  plan.coordinates.tp = 1;
  plan.seq_length = 8;
  plan.micro_batch_size = 2;
  plan.sources = {"sequence"};
  plan.embeddings = *CopyTable::Create({{0, 12, 0, 1, 4}}, {16}, 4);
  plan.labels = *CopyTable::Create(
      {{0, 0, 0, 1, 2}, {0, 6, 2, 1, 4}, {0, 14, 6, 1, 2}}, {16}, 8);
  plan.embedding_runs = {{6, 2}};
  plan.label_runs = {{0, 2}, {6, 2}};
  return plan;
}

ShardPlan LaterStage() {
  ShardPlan plan = FirstStage();
  plan.rank = 9;
  plan.coordinates.pp = 1;
  plan.embeddings.reset();
  plan.embedding_runs.clear();
  return plan;
}

TEST(PlanJsonTest, DigestsAreSixteenLowerCaseDigits) {
  EXPECT_EQ(DigestText(0xabcd), "000000000000abcd");
  EXPECT_EQ(DigestText(~uint64_t{0}), "ffffffffffffffff");
}

TEST(PlanJsonTest, ShardPlanHasTheKeysInTheOrderOfTheContract) {
  EXPECT_EQ(
      PlanShardJson(0xabcd, {FirstStage()}, /*with_positions=*/false).dump(),
      R"({"digest":"000000000000abcd","ranks":[{"rank":5,"tp":1,)"
      R"("gtp_remat":0,"cp":0,"dp":0,"pp":0,"lane":0,"view":true,)"
      R"("embedding_shape":[2,2,null],"embedding_runs":[[6,2]],)"
      R"("label_runs":[[0,2],[6,2]]}]})");
}

TEST(PlanJsonTest, PositionsSpellTheRunsOut) {
  const nlohmann::ordered_json json =
      PlanShardJson(0, {FirstStage()}, /*with_positions=*/true);
  EXPECT_EQ(json["ranks"][0]["embedding_positions"].dump(), "[6,7]");
  EXPECT_EQ(json["ranks"][0]["label_positions"].dump(), "[0,1,6,7]");
}

TEST(PlanJsonTest, LaterStagesHaveNullForEmbeddings) {
  const nlohmann::ordered_json rank =
      PlanComposeJson(0, {LaterStage()}, /*with_positions=*/true)["ranks"][0];
  EXPECT_EQ(rank["view"], false);
  EXPECT_TRUE(rank["embedding_shape"].is_null());
  EXPECT_TRUE(rank["embedding_runs"].is_null());
  EXPECT_TRUE(rank["embedding_positions"].is_null());
  EXPECT_TRUE(rank["rows"].is_null());
  EXPECT_EQ(rank["label_runs"].dump(), "[[0,2],[6,2]]");
}

TEST(PlanJsonTest, ComposeNamesTheSourceOfEveryPositionAndSample) {
  ShardPlan plan = FirstStage();
  plan.sources = {"text", "images"};
  // Sample 0 takes two text rows, sample 1 an image row and a filled one.
  plan.embeddings = *CopyTable::Create(
      {{0, 4, 0, 2, 2}, {1, 3, 1, 2, 1}, {RowCopy::kFill, 0, 3, 2, 1}}, {8, 4},
      4);
  const nlohmann::ordered_json json =
      PlanComposeJson(0, {plan}, /*with_positions=*/false);
  EXPECT_EQ(json["ranks"][0]["rows"].dump(),
            R"([[["text",4],["images",3]],[["text",5],null]])");
  EXPECT_FALSE(json["ranks"][0].contains("label_positions"));
}

// Rank 1 sends six rows to rank 3 and one to rank 2; rank 0 has none.
TEST(PlanJsonTest, RouteHasTheKeysInTheOrderOfTheContract) {
  LayoutSpec spec;
  spec.name = "tiny";
  spec.world_size = 4;
  spec.modules.resize(2);
  spec.modules[0].name = "images";
  spec.modules[0].role = Role::kEncoder;
  spec.modules[0].ranks = {0, 1};
  spec.modules[1].name = "language";
  spec.modules[1].role = Role::kLanguage;
  spec.modules[1].ranks = {2, 3};
  spec.modules[1].cp = 2;
  spec.edges = {{"images", "language"}};
  const Layout layout = *Layout::Create(spec);
  RoutePlan idle, sent;
  idle.digest = sent.digest = 0xabcd;
  sent.rank = 1;
  sent.pack = *CopyTable::Create({}, {7}, 0);
  sent.parts = {{1, {0, 7}}};
  sent.edges.push_back({"images", 0, {}});
  sent.edges[0].transfers = {{3, {{0, 2}, {3, 4}}, 6, 0, -1, {0, 6}},
                             {2, {{2, 1}}, 1, -1, 2, {0, 1}}};
  EXPECT_EQ(
      PlanRouteJson(layout, {sent, idle}, 10, /*with_rows=*/true).dump(),
      R"({"digest":"000000000000abcd","transfers":[)"
      R"({"edge":"images->language","source_rank":1,"destination_rank":2,)"
      R"("row_count":1,"bytes":10,"rows":[[2,1]]},)"
      R"({"edge":"images->language","source_rank":1,"destination_rank":3,)"
      R"("row_count":6,"bytes":60,"rows":[[0,2],[3,4]]}],)"
      R"("total_rows":7,"rows_if_broadcast":14})");
  const nlohmann::ordered_json transfer = PlanRouteJson(
      layout, {sent}, std::nullopt, /*with_rows=*/false)["transfers"][0];
  EXPECT_TRUE(transfer["bytes"].is_null());
  EXPECT_FALSE(transfer.contains("rows"));
}

TEST(PlanJsonTest, ARanksOwnRouteHasItAtTheRightEnd) {
  RoutePlan sent;
  sent.digest = 0xabcd;
  sent.rank = 1;
  sent.pack = *CopyTable::Create({}, {7}, 0);
  sent.edges.push_back({"images", 0, {{3, {{0, 2}}, 2, -1, 0, {1, 1}}}});
  EXPECT_EQ(RankRouteJson(sent, /*with_rows=*/true).dump(),
            R"({"digest":"000000000000abcd","rank":1,"transfers":[)"
            R"({"encoder":"images","source_rank":1,"destination_rank":3,)"
            R"("row_count":2,"returned":[1,1],"rows":[[0,2]]}]})");
  sent.pack.reset();
  const nlohmann::ordered_json transfer =
      RankRouteJson(sent, /*with_rows=*/false)["transfers"][0];
  EXPECT_EQ(transfer["source_rank"], 3);
  EXPECT_EQ(transfer["destination_rank"], 1);
  EXPECT_FALSE(transfer.contains("rows"));
}

TEST(PlanJsonTest, GroupsListEveryKindThatAModuleHas) {
  LayoutSpec spec;
  spec.name = "tiny";
  spec.world_size = 3;
  ModuleSpec images;
  images.name = "images";
  images.role = Role::kEncoder;
  images.first_rank = 0;
  images.rank_count = 1;
  ModuleSpec language;
  language.name = "language";
  language.role = Role::kLanguage;
  language.first_rank = 1;
  language.rank_count = 2;
  language.tp = 2;
  spec.modules = {images, language};
  const absl::StatusOr<Layout> layout = Layout::Create(spec);
  ASSERT_TRUE(layout.ok()) << layout.status();

  const nlohmann::ordered_json modules = GroupsJson(*layout)["modules"];
  ASSERT_EQ(modules.size(), 2);
  EXPECT_EQ(modules[0]["name"], "images");
  EXPECT_FALSE(modules[0]["groups"].contains("embd"));
  EXPECT_EQ(modules[1]["groups"].begin().key(), "tp");
  EXPECT_EQ(modules[1]["groups"]["tp"].dump(), "[[1,2]]");
  EXPECT_EQ(modules[1]["groups"]["cp"].dump(), "[[1],[2]]");
  EXPECT_EQ(modules[1]["groups"]["embd"].dump(), "[[1],[2]]");
}

TEST(PlanJsonTest, RankExplanationKeepsGroupOrderAndNamesCliques) {
  v1::RankExplanation rank;
  rank.set_job("vlm");
  rank.set_rank(5);
  rank.set_generation(3);
  rank.set_module("language");
  rank.set_role(v1::LANGUAGE);
  rank.mutable_coordinates()->set_tp(1);
  v1::GroupMembership* group = rank.add_groups();
  group->set_kind("tp");
  group->set_index(2);
  group->set_position(1);
  group->add_members()->set_first(4);
  group->add_members()->set_first(5);
  const nlohmann::ordered_json json = RankExplanationJson(rank);
  EXPECT_EQ(json["role"], "language");
  EXPECT_EQ(json["coordinates"]["tp"], 1);
  EXPECT_EQ(json["groups"].dump(),
            R"([{"name":"language/tp/2","kind":"tp","index":2,"position":1,)"
            R"("ranks":[4,5]}])");
}

}  // namespace
}  // namespace shardwright
