// What goes over the wire comes back equal; what a wire made up is refused.

#include "proto/plan/codec.h"

#include <cstdint>
#include <functional>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/unknown_field_set.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ShardPlan Plan() {
  ShardPlan plan;
  plan.digest = 0xfedcba9876543210u;
  plan.generation = 3;
  plan.rank = 5;
  plan.coordinates = {1, 0, 0, 0, 0, 0};
  plan.seq_length = 8;
  plan.micro_batch_size = 2;
  plan.sources = {"sequence"};
  plan.embeddings = *CopyTable::Create({{0, 12, 0, 1, 4}}, {16}, 4);
  plan.labels = *CopyTable::Create(
      {{0, 0, 0, 1, 2}, {0, 6, 2, 1, 2}, {0, 8, 4, 1, 2}, {0, 14, 6, 1, 2}},
      {16}, 8);
  plan.embedding_runs = {{6, 2}};
  plan.label_runs = {{0, 2}, {6, 2}};
  plan.load = {8, 1, 52};
  return plan;
}

TEST(CodecTest, ShardPlanRoundTrips) {
  const v1::ShardPlan message = ToProto(Plan());
  const absl::StatusOr<ShardPlan> back = ShardPlanFromProto(message);
  ASSERT_THAT(back, IsOk());
  EXPECT_EQ(back->embeddings, Plan().embeddings);
  EXPECT_EQ(back->labels, Plan().labels);
  EXPECT_EQ(ToProto(*back).SerializeAsString(), message.SerializeAsString());
}

TEST(CodecTest, APlanOfALaterStageHasNoEmbeddings) {
  ShardPlan plan = Plan();
  plan.embeddings.reset();
  plan.embedding_runs.clear();
  const absl::StatusOr<ShardPlan> back = ShardPlanFromProto(ToProto(plan));
  ASSERT_THAT(back, IsOk());
  EXPECT_FALSE(back->embeddings.has_value());
}

TEST(CodecTest, RefusesRunsThatDoNotFitTheTable) {
  v1::ShardPlan message = ToProto(Plan());
  message.mutable_embedding_runs(0)->set_count(1);
  EXPECT_THAT(ShardPlanFromProto(message), HasReason("INVALID_PLAN"));
  message = ToProto(Plan());
  message.mutable_label_runs(0)->set_position(7);
  EXPECT_THAT(ShardPlanFromProto(message), HasReason("INVALID_PLAN"));
  message = ToProto(Plan());
  message.mutable_label_runs(0)->set_count(INT64_MAX);
  EXPECT_THAT(ShardPlanFromProto(message), HasReason("INVALID_PLAN"));
}

TEST(CodecTest, RefusesATableThatIsNone) {
  v1::ShardPlan message = ToProto(Plan());
  message.mutable_labels()->mutable_entries(0)->set_row_count(3);
  EXPECT_THAT(ShardPlanFromProto(message), HasReason("INVALID_TABLE"));
}

TEST(CodecTest, RefusesATableThatKeepsRows) {
  const CopyTable table = *CopyTable::Create(
      {{0, 0, 0, 1, 2}, {RowCopy::kKeep, 0, 2, 1, 1}}, {2}, 3);
  EXPECT_THAT(CopyTableFromProto(ToProto(table)),
              AllOf(HasReason("INVALID_TABLE"),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("destination_row 2 has source -2"))));
}

TEST(CodecTest, RefusesSizesOutOfRange) {
  v1::ShardPlan message = ToProto(Plan());
  message.set_micro_batch_size(-1);
  EXPECT_THAT(ShardPlanFromProto(message), HasReason("INVALID_PLAN"));
  EXPECT_THAT(ShardPlanFromProto(v1::ShardPlan()), HasReason("INVALID_PLAN"));
}

v1::Layout LayoutMessage() {
  v1::Layout message;
  message.set_name("solo");
  message.set_world_size(2);
  v1::Module& module = *message.add_modules();
  module.set_name("language");
  module.set_role(v1::LANGUAGE);
  module.set_first_rank(0);
  module.set_rank_count(2);
  module.mutable_parallelism()->set_tp(2);
  return message;
}

TEST(CodecTest, LayoutFromProtoReadsEveryField) {
  const absl::StatusOr<Layout> layout = LayoutFromProto(LayoutMessage());
  ASSERT_THAT(layout, IsOk());
  EXPECT_EQ(layout->language().tp(), 2);
}

TEST(CodecTest, UnknownFieldsAreProblemsBesideTheOthers) {
  v1::Layout message = LayoutMessage();
  message.set_world_size(3);
  v1::Module& module = *message.mutable_modules(0);
  module.GetReflection()->MutableUnknownFields(&module)->AddVarint(99, 1);
  const absl::StatusOr<Layout> layout = LayoutFromProto(message);
  EXPECT_THAT(layout, HasReason("INVALID_LAYOUT"));
  EXPECT_THAT(layout,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("modules[0]: field number 99 is unknown")));
  EXPECT_THAT(layout, StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("rank 2 belongs to no module")));
}

TEST(CodecTest, AFileThatCannotBeReadIsNotBlamedForWhatItLacks) {
  v1::Layout message;
  Document document = ReadDocument("name: [", message);
  EXPECT_EQ(CheckLayoutDocument(document, message).size(), 1);
  document = ReadDocument("nme: a", message);
  EXPECT_GT(CheckLayoutDocument(document, message).size(), 2);
}

TEST(CodecTest, ExplainsARankWithAllItsGroups) {
  const Layout layout = *LayoutFromProto(LayoutMessage());
  const absl::StatusOr<v1::RankExplanation> explanation =
      ExplainRank(layout, 1, 7);
  ASSERT_THAT(explanation, IsOk());
  EXPECT_EQ(explanation->module(), "language");
  EXPECT_EQ(explanation->coordinates().tp(), 1);
  EXPECT_EQ(explanation->generation(), 7);
  EXPECT_EQ(explanation->parallelism().cp(), 1);
  ASSERT_EQ(explanation->groups_size(), 22);
  EXPECT_EQ(explanation->groups(0).kind(), "tp");
  EXPECT_EQ(explanation->groups(0).position(), 1);
  EXPECT_THAT(RanksOf(explanation->groups(0)), ElementsAre(0, 1));
  EXPECT_THAT(ExplainRank(layout, 2, 7), HasReason("RANK_NOT_FOUND"));
}

TEST(CodecTest, AGroupOfAnotherModuleBearsItsName) {
  LayoutSpec spec;
  spec.name = "two";
  spec.world_size = 3;
  for (const Role role : {Role::kEncoder, Role::kLanguage}) {
    ModuleSpec& module = spec.modules.emplace_back();
    module.name = role == Role::kEncoder ? "images" : "language";
    module.role = role;
    module.first_rank = role == Role::kEncoder ? 0 : 2;
    module.rank_count = role == Role::kEncoder ? 2 : 1;
  }
  spec.edges = {{"images", "language"}};
  const Layout layout = *Layout::Create(spec);
  const v1::RankExplanation encoder = *ExplainRank(layout, 1, 7);
  EXPECT_EQ(NameOf(encoder, encoder.groups(0)), "images/tp/1");
  const v1::GroupMembership& bridge = *encoder.groups().rbegin();
  EXPECT_EQ(bridge.module(), "language");
  EXPECT_EQ(NameOf(encoder, bridge), "language/bridge/0");
  EXPECT_THAT(RanksOf(bridge), ElementsAre(2, 0, 1));
  EXPECT_EQ(bridge.position(), 2);
  const v1::RankExplanation language = *ExplainRank(layout, 2, 7);
  EXPECT_EQ(language.groups().rbegin()->module(), "");
  EXPECT_EQ(NameOf(language, *language.groups().rbegin()), "language/bridge/0");
}

TEST(CodecTest, ARankOfAMillionIsExplainedInAKilobyte) {
  LayoutSpec spec;
  spec.name = "large";
  spec.world_size = 1000000;
  ModuleSpec& language = spec.modules.emplace_back();
  language.name = "language";
  language.role = Role::kLanguage;
  language.first_rank = 0;
  language.rank_count = spec.world_size;
  language.tp = 8;
  language.cp = 5;
  language.pp = 10;
  language.ep = 4;
  const Layout layout = *Layout::Create(spec);
  const v1::RankExplanation rank = *ExplainRank(layout, 123456, 1);
  EXPECT_LT(rank.ByteSizeLong(), 1024);
  ASSERT_EQ(rank.groups_size(), 20);
  for (const v1::GroupMembership& group : rank.groups()) {
    const GroupKind& kind = *FindGroupKind(group.kind());
    EXPECT_EQ(RanksOf(group), layout.language().Group(kind, group.index()));
    EXPECT_EQ(RanksOf(group)[group.position()], 123456) << group.kind();
  }
}

TEST(CodecTest, GroupsOfMoreRanksThanALayoutHasAreNotExpanded) {
  v1::GroupMembership group;
  v1::StridedRanks& ranks = *group.add_members();
  for (int i = 0; i < 8; ++i) {
    ranks.add_dimensions()->set_count(kWorldSizeMax);
  }
  EXPECT_THAT(RanksOf(group), IsEmpty());
  ranks.clear_dimensions();
  ranks.add_dimensions()->set_count(-1);
  EXPECT_THAT(RanksOf(group), IsEmpty());
}

TEST(CodecTest, UnknownFieldsAreNotListedWithoutEnd) {
  v1::Layout layout;
  for (int i = 0; i < 1 << 17; ++i) {
    layout.GetReflection()->MutableUnknownFields(&layout)->AddVarint(99, i);
  }
  EXPECT_LE(CheckUnknownFields(layout).size(), kProblemsMax);
  EXPECT_THAT(LayoutFromProto(layout), HasReason("INVALID_LAYOUT"));
}

// A language rank that gets rows 2-3 and 5 of rank 0, and one row of rank 1.
v1::RoutePlan Receiving() {
  RoutePlan plan;
  plan.digest = 0xfedcba9876543210u;
  plan.generation = 3;
  plan.rank = 5;
  plan.sources = {"text", "images"};
  plan.placement =
      *CopyTable::Create({{0, 0, 0, 1, 2}, {1, 0, 2, 1, 4}}, {6, 4}, 6);
  RouteEdge& edge = plan.edges.emplace_back();
  edge.encoder = "images";
  edge.staging_rows = 4;
  edge.transfers = {{0, {{2, 2}, {5, 1}}, 3, 0, 2, {0, 3}},
                    {1, {{7, 1}}, 1, 3, 5, {0, 0}}};
  return ToProto(plan);
}

// The encoder rank that sends the first of them, and one row as it lies.
v1::RoutePlan Sending() {
  RoutePlan plan;
  plan.pack = *CopyTable::Create({{0, 2, 0, 1, 2}, {0, 5, 2, 1, 1}}, {8}, 3);
  RouteEdge& edge = plan.edges.emplace_back();
  edge.encoder = "images";
  edge.staging_rows = 3;
  edge.transfers = {{5, {{2, 2}, {5, 1}}, 3, 0, RouteTransfer::kNone, {0, 3}},
                    {6, {{4, 1}}, 1, RouteTransfer::kNone, 4, {0, 1}}};
  plan.parts = {{0, {0, 6}}, {1, {6, 2}}};
  return ToProto(plan);
}

TEST(RouteCodecTest, RoundTrips) {
  for (const v1::RoutePlan& message : {Receiving(), Sending()}) {
    const absl::StatusOr<RoutePlan> back = RoutePlanFromProto(message);
    ASSERT_THAT(back, IsOk());
    EXPECT_EQ(ToProto(*back).SerializeAsString(), message.SerializeAsString());
  }
  RoutePlan idle;
  idle.rank = 9;
  EXPECT_THAT(RoutePlanFromProto(ToProto(idle)), IsOk());
}

TEST(RouteCodecTest, RefusesTransfersThatDoNotFit) {
  using Change = std::function<void(v1::RouteTransfer&)>;
  const std::vector<Change> changes = {
      [](auto& t) { t.set_peer(-1); },
      [](auto& t) { t.set_peer(kWorldSizeMax); },
      [](auto& t) { t.set_row_count(4); },
      [](auto& t) { t.set_row_count(-1); },
      [](auto& t) { t.clear_rows(); },
      [](auto& t) { t.mutable_rows(1)->set_row(4); },  // Goes on: not a run.
      [](auto& t) { t.mutable_rows(1)->set_row(1); },
      [](auto& t) { t.mutable_rows(0)->set_row(-1); },
      [](auto& t) { t.mutable_rows(1)->set_count(INT64_MAX); },
      [](auto& t) { t.mutable_rows(1)->set_row(INT64_MAX); },
      [](auto& t) { t.set_staging_row(1); },
      [](auto& t) { t.set_staging_row(-1); },
      [](auto& t) { t.set_tensor_row(INT64_MAX); },
      [](auto& t) { t.mutable_returned()->set_row(1); },
      [](auto& t) { t.mutable_returned()->set_count(-1); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    for (v1::RoutePlan message : {Receiving(), Sending()}) {
      changes[i](*message.mutable_edges(0)->mutable_transfers(0));
      EXPECT_THAT(RoutePlanFromProto(message), HasReason("INVALID_PLAN")) << i;
    }
  }
}

TEST(RouteCodecTest, RefusesPlansWhosePartsDoNotFit) {
  using Change = std::function<void(v1::RoutePlan&)>;
  const std::vector<Change> receiving = {
      [](auto& p) { p.set_rank(-1); },
      [](auto& p) { p.clear_placement(); },
      [](auto& p) { *p.mutable_pack() = Sending().pack(); },
      [](auto& p) { p.add_sources("audio"); },
      [](auto& p) { p.mutable_edges(0)->set_encoder("audio"); },
      [](auto& p) { p.mutable_edges(0)->set_staging_rows(5); },
      [](auto& p) { *p.add_edges() = p.edges(0); },
      [](auto& p) {
        *p.mutable_edges(0)->add_transfers() = p.edges(0).transfers(1);
      },
      [](auto& p) { p.mutable_edges(0)->mutable_transfers()->RemoveLast(); },
      [](auto& p) {
        p.mutable_edges(0)->mutable_transfers(0)->clear_staging_row();
      },
  };
  const std::vector<Change> sending = {
      [](auto& p) { p.clear_pack(); },
      [](auto& p) { p.clear_edges(); },
      [](auto& p) { p.mutable_edges(0)->set_staging_rows(4); },
      [](auto& p) { p.mutable_parts()->RemoveLast(); },
      [](auto& p) { p.mutable_parts(1)->mutable_rows()->set_row(5); },
      [](auto& p) { p.mutable_parts(1)->mutable_rows()->set_count(3); },
      [](auto& p) {
        p.mutable_edges(0)->mutable_transfers(1)->set_tensor_row(3);
      },
      [](auto& p) {
        p.mutable_edges(0)->mutable_transfers(1)->clear_tensor_row();
      },
      [](auto& p) {
        p.mutable_edges(0)->mutable_transfers(0)->set_tensor_row(2);
      },
  };
  for (size_t i = 0; i < receiving.size(); ++i) {
    v1::RoutePlan message = Receiving();
    receiving[i](message);
    EXPECT_THAT(RoutePlanFromProto(message), HasReason("INVALID_PLAN")) << i;
  }
  for (size_t i = 0; i < sending.size(); ++i) {
    v1::RoutePlan message = Sending();
    sending[i](message);
    EXPECT_THAT(RoutePlanFromProto(message), HasReason("INVALID_PLAN")) << i;
  }
}

}  // namespace
}  // namespace shardwright
