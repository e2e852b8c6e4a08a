// What goes over the wire comes back equal; what a wire made up is refused.

#include "proto/plan/codec.h"

#include "gmock/gmock.h"
#include "google/protobuf/unknown_field_set.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

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

}  // namespace
}  // namespace shardwright
