#include "proto/plan/group.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;

ModuleSpec Spec(const std::string& name, Role role, Rank first, int64_t count,
                int64_t tp, int64_t pp) {
  ModuleSpec spec;
  spec.name = name;
  spec.role = role;
  spec.first_rank = first;
  spec.rank_count = count;
  spec.tp = tp;
  spec.pp = pp;
  return spec;
}

// Images are ranks 0 to 3 and 2 stages, audio 4 and 5, video 6 and 7 without an
// edge, language 8 to 15 and 2 stages.
LayoutSpec FourModules() {
  LayoutSpec spec;
  spec.name = "four";
  spec.world_size = 16;
  spec.modules = {Spec("images", Role::kEncoder, 0, 4, 1, 2),
                  Spec("audio", Role::kEncoder, 4, 2, 2, 1),
                  Spec("video", Role::kEncoder, 6, 2, 1, 1),
                  Spec("language", Role::kLanguage, 8, 8, 2, 2)};
  spec.edges = {{"audio", "language"}, {"images", "language"}};
  return spec;
}

std::vector<std::string> NamesOf(const Layout& layout, Rank rank) {
  std::vector<std::string> names;
  for (const auto& [group, position] : GroupsOf(layout, *layout.Find(rank))) {
    names.push_back(group.name());
  }
  return names;
}

TEST(GroupTest, BridgeHasTheStagesAtTheEndsOfTheEdges) {
  const Layout layout = *Layout::Create(FourModules());
  const Group bridge = *FindGroup(layout, "language/bridge/0");
  EXPECT_THAT(RanksOf(layout, bridge), ElementsAre(8, 9, 10, 11, 2, 3, 4, 5));
  EXPECT_EQ(SizeOf(layout, bridge), 8);
  EXPECT_EQ(StridedRanksOf(layout, bridge).size(), 3);
  EXPECT_EQ(bridge.module, &layout.language());
}

// Layouts that differ in the order of edges have one digest.
TEST(GroupTest, BridgeDoesNotDependOnTheOrderOfEdges) {
  LayoutSpec spec = FourModules();
  const Layout layout = *Layout::Create(spec);
  std::swap(spec.edges[0], spec.edges[1]);
  const Layout other = *Layout::Create(spec);
  ASSERT_EQ(layout.digest(), other.digest());
  EXPECT_EQ(RanksOf(layout, *FindGroup(layout, "language/bridge/0")),
            RanksOf(other, *FindGroup(other, "language/bridge/0")));
}

TEST(GroupTest, BridgeIsTheLastGroupOfItsMembersAlone) {
  const Layout layout = *Layout::Create(FourModules());
  const std::vector<Rank> members =
      RanksOf(layout, *FindGroup(layout, "language/bridge/0"));
  for (Rank rank = 0; rank < layout.world_size(); ++rank) {
    SCOPED_TRACE(rank);
    const auto found = std::find(members.begin(), members.end(), rank);
    const GroupMembership last = GroupsOf(layout, *layout.Find(rank)).back();
    EXPECT_EQ(last.group.name() == "language/bridge/0", found != members.end());
    if (found == members.end()) continue;
    EXPECT_EQ(last.position, found - members.begin());
  }
}

TEST(GroupTest, LayoutWithoutEdgesHasNoBridge) {
  LayoutSpec spec = FourModules();
  spec.edges.clear();
  const Layout layout = *Layout::Create(std::move(spec));
  EXPECT_FALSE(FindGroup(layout, "language/bridge/0").has_value());
  EXPECT_EQ(GroupCount(layout, layout.language(), *FindGroupKind("bridge")), 0);
  EXPECT_EQ(NamesOf(layout, 8).back(), "language/pos_embd/0");
}

TEST(GroupTest, NamesThatNoGroupBearsAreNotFound) {
  const Layout layout = *Layout::Create(FourModules());
  for (const char* name :
       {"images/bridge/0", "language/bridge/1", "language/tp/4", "x/tp/0",
        "images/embd/0", "language/x/0", "language/tp", "language/tp/-1"}) {
    EXPECT_FALSE(FindGroup(layout, name).has_value()) << name;
  }
  EXPECT_EQ(FindGroup(layout, "language/tp/3")->name(), "language/tp/3");
}

TEST(GroupTest, BridgeOfAMillionRanksIsTwoStrides) {
  LayoutSpec spec;
  spec.name = "million";
  spec.world_size = 1 << 20;
  spec.modules = {
      Spec("images", Role::kEncoder, 0, 1 << 18, 2, 4),
      Spec("language", Role::kLanguage, 1 << 18, (1 << 20) - (1 << 18), 8, 8)};
  spec.edges = {{"images", "language"}};
  const Layout layout = *Layout::Create(std::move(spec));
  const Group bridge = *FindGroup(layout, "language/bridge/0");
  EXPECT_EQ(StridedRanksOf(layout, bridge).size(), 2);
  EXPECT_EQ(SizeOf(layout, bridge), (3 << 18) / 8 + (1 << 16));
  const GroupMembership last =
      GroupsOf(layout, *layout.Find((1 << 18) - 1)).back();
  EXPECT_EQ(last.position, SizeOf(layout, bridge) - 1);
}

}  // namespace
}  // namespace shardwright
