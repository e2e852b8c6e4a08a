// Enumeration as Megatron-Core's HyperCommGrid: worked cases, then properties
// over every grid of a small family.

#include "proto/plan/grid.h"

#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardwright {
namespace {

using Groups = std::vector<std::vector<int64_t>>;

Groups GroupsOf(const Grid& grid, DimSet dims) {
  Groups groups(grid.GroupCount(dims));
  for (int64_t g = 0; g < grid.GroupCount(dims); ++g) {
    for (int64_t i = 0; i < grid.GroupSize(dims); ++i) {
      groups[g].push_back(grid.Member(dims, g, i));
    }
  }
  return groups;
}

Grid TpCpDp() { return Grid({{Dim::kTp, 2}, {Dim::kCp, 2}, {Dim::kDp, 2}}); }

TEST(GridTest, EnumeratesGroupsFirstDimensionFastest) {
  const Grid grid = TpCpDp();
  EXPECT_EQ(GroupsOf(grid, {Dim::kTp}),
            (Groups{{0, 1}, {2, 3}, {4, 5}, {6, 7}}));
  EXPECT_EQ(GroupsOf(grid, {Dim::kCp}),
            (Groups{{0, 2}, {1, 3}, {4, 6}, {5, 7}}));
  EXPECT_EQ(GroupsOf(grid, {Dim::kDp, Dim::kCp}),
            (Groups{{0, 2, 4, 6}, {1, 3, 5, 7}}));
  EXPECT_EQ(GroupsOf(grid, {Dim::kTp, Dim::kDp}),
            (Groups{{0, 1, 4, 5}, {2, 3, 6, 7}}));
}

TEST(GridTest, AGroupIsAsShortAsItsDimensionsAllow) {
  const Grid grid = TpCpDp();
  const Strided joined = grid.Group({Dim::kCp, Dim::kDp}, 1);
  EXPECT_EQ(joined.first, 1);
  ASSERT_EQ(joined.dimensions.size(), 1);  // cp and dp go on evenly.
  EXPECT_EQ(joined.dimensions[0].count, 4);
  EXPECT_EQ(joined.dimensions[0].stride, 2);
  EXPECT_EQ(grid.Group({Dim::kTp, Dim::kDp}, 1).dimensions.size(), 2);
  EXPECT_EQ(grid.Group({Dim::kPp}, 7).dimensions.size(), 0);
}

TEST(GridTest, ADimensionLeftOutHasSizeOne) {
  const Grid grid = TpCpDp();
  EXPECT_EQ(grid.size(Dim::kPp), 1);
  EXPECT_EQ(grid.Coordinate(Dim::kPp, 7), 0);
  EXPECT_EQ(grid.GroupCount({Dim::kPp}), 8);
}

TEST(GridTest, TheEmptyGridHasOneIndex) { EXPECT_EQ(Grid().count(), 1); }

TEST(GridTest, EveryIndexIsInOneGroupAtItsPosition) {
  const DimSet kSets[] = {
      {Dim::kTp},           {Dim::kDp}, {Dim::kTp, Dim::kPp},
      {Dim::kCp, Dim::kDp}, {},         {Dim::kTp, Dim::kCp, Dim::kPp}};
  for (int64_t tp : {1, 2, 3}) {
    for (int64_t cp : {1, 2}) {
      for (int64_t pp : {1, 3}) {
        const Grid grid(
            {{Dim::kPp, pp}, {Dim::kTp, tp}, {Dim::kCp, cp}, {Dim::kDp, 2}});
        for (const DimSet& dims : kSets) {
          const Groups groups = GroupsOf(grid, dims);
          std::set<int64_t> seen;
          for (int64_t g = 0; g < grid.GroupCount(dims); ++g) {
            for (int64_t i = 0; i < grid.GroupSize(dims); ++i) {
              const int64_t index = grid.Member(dims, g, i);
              EXPECT_TRUE(seen.insert(index).second);
              EXPECT_EQ(grid.GroupOf(dims, index), g);
              EXPECT_EQ(grid.PositionOf(dims, index), i);
              if (i == 0) continue;
              EXPECT_GT(index, grid.Member(dims, g, i - 1));
            }
            std::vector<int64_t> members;
            grid.Group(dims, g).AppendTo(members);
            EXPECT_EQ(members, groups[g]);
            EXPECT_EQ(members.size(), grid.Group(dims, g).size());
          }
          EXPECT_EQ(seen.size(), grid.count());
        }
      }
    }
  }
}

}  // namespace
}  // namespace shardwright
