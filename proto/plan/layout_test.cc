// Layout is a checked value: of each rule, its smallest violation is refused
// and named. Whether groups equal Megatron-Core's is tests/golden.

#include "proto/plan/layout.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/plan/clique_name.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Four encoder ranks tp2 dp2, four language ranks tp2 cp2.
LayoutSpec Valid() {
  LayoutSpec spec;
  spec.name = "vlm-8";
  spec.world_size = 8;
  ModuleSpec images;
  images.name = "images";
  images.role = Role::kEncoder;
  images.first_rank = 0;
  images.rank_count = 4;
  images.tp = 2;
  ModuleSpec language;
  language.name = "language";
  language.role = Role::kLanguage;
  language.first_rank = 4;
  language.rank_count = 4;
  language.tp = 2;
  language.cp = 2;
  language.sequence_parallel = true;
  spec.modules = {images, language};
  spec.edges = {{"images", "language"}};
  return spec;
}

std::string Describe(const Problems& problems) {
  return absl::StrJoin(problems, "\n", [](std::string* out, const Problem& p) {
    absl::StrAppend(out, p.field, ": ", p.description, " (", p.hint, ")");
  });
}

std::vector<std::vector<Rank>> GroupsOf(const Module& module,
                                        const std::string& kind_name) {
  const GroupKind& kind = *FindGroupKind(kind_name);
  std::vector<std::vector<Rank>> groups;
  for (int64_t g = 0; g < module.GroupCount(kind); ++g) {
    groups.push_back(module.Group(kind, g));
  }
  return groups;
}

TEST(LayoutTest, DerivesSizesAndPlaces) {
  const absl::StatusOr<Layout> layout = Layout::Create(Valid());
  ASSERT_THAT(layout, IsOk());
  EXPECT_EQ(layout->modules()[0].dp(), 2);
  EXPECT_EQ(layout->language().dp(), 1);
  const absl::StatusOr<Placement> at = layout->Find(7);
  ASSERT_THAT(at, IsOk());
  EXPECT_EQ(at->module->name(), "language");
  const Coordinates c = at->module->CoordinatesAt(at->index);
  EXPECT_EQ(c.tp, 1);
  EXPECT_EQ(c.cp, 1);
  EXPECT_THAT(layout->Find(8), HasReason("RANK_NOT_FOUND"));
  EXPECT_THAT(layout->Find(-1), HasReason("RANK_NOT_FOUND"));
}

TEST(LayoutTest, ListedRanksFollowTheListsOrder) {
  LayoutSpec spec = Valid();
  spec.modules[1].first_rank.reset();
  spec.modules[1].rank_count.reset();
  spec.modules[1].ranks = {6, 4, 7, 5};
  const absl::StatusOr<Layout> layout = Layout::Create(spec);
  ASSERT_THAT(layout, IsOk());
  const Module& language = layout->language();
  EXPECT_THAT(GroupsOf(language, "tp"),
              ElementsAre(ElementsAre(6, 4), ElementsAre(7, 5)));
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(language.IndexOf(language.RankAt(i)), i);
  }
  EXPECT_EQ(language.IndexOf(3), std::nullopt);
}

TEST(LayoutTest, AListOfConsecutiveRanksMeansTheSameAsASpan) {
  LayoutSpec spec = Valid();
  const uint64_t digest = Layout::Create(spec)->digest();
  spec.modules[1].first_rank.reset();
  spec.modules[1].rank_count.reset();
  spec.modules[1].ranks = {4, 5, 6, 7};
  EXPECT_EQ(Layout::Create(spec)->digest(), digest);
  spec.modules[1].ranks = {5, 4, 6, 7};
  EXPECT_NE(Layout::Create(spec)->digest(), digest);
}

TEST(LayoutTest, EmbeddingGroupsJoinFirstAndLastStage) {
  LayoutSpec spec = Valid();
  spec.modules[1].tp = 1;
  spec.modules[1].cp = 1;
  spec.modules[1].pp = 4;
  const absl::StatusOr<Layout> layout = Layout::Create(spec);
  ASSERT_THAT(layout, IsOk());
  const Module& language = layout->language();
  EXPECT_THAT(GroupsOf(language, "embd"), ElementsAre(ElementsAre(4, 7)));
  EXPECT_THAT(GroupsOf(language, "pos_embd"), ElementsAre(ElementsAre(4)));
  const GroupKind& embd = *FindGroupKind("embd");
  EXPECT_EQ(language.GroupOf(embd, 0), 0);
  EXPECT_EQ(language.GroupOf(embd, 1), std::nullopt);
  EXPECT_EQ(language.GroupOf(embd, 3), 0);
  EXPECT_FALSE(layout->modules()[0].Has(embd));
}

TEST(LayoutTest, ExpertViewFollowsTheOrder) {
  LayoutSpec spec = Valid();
  ModuleSpec& language = spec.modules[1];
  language.cp = 1;
  language.ep = 2;
  language.expert_tp = 2;
  EXPECT_THAT(GroupsOf(Layout::Create(spec)->language(), "ep"),
              ElementsAre(ElementsAre(4, 6), ElementsAre(5, 7)));
  language.order = "dp-cp-tp";  // Expert view: expert_dp-ep-expert_tp.
  EXPECT_THAT(GroupsOf(Layout::Create(spec)->language(), "expert_tp"),
              ElementsAre(ElementsAre(4, 6), ElementsAre(5, 7)));
}

// The ranks of `module` by the definition of a group.
std::vector<Rank> MembersOneByOne(const Module& module, const GroupKind& kind,
                                  int64_t group) {
  const Grid& grid = kind.expert_view ? module.expert_grid() : module.grid();
  std::vector<Rank> ranks;
  const int64_t size = grid.GroupSize(kind.dims);
  for (int64_t i = 0; i < size; ++i) {
    const bool takes_part =
        kind.members == GroupKind::Members::kAll || i == 0 ||
        (kind.members == GroupKind::Members::kFirstAndLast && i == size - 1);
    if (takes_part) {
      ranks.push_back(module.RankAt(grid.Member(kind.dims, group, i)));
    }
  }
  return ranks;
}

// Consecutive ranks, and the same number listed one by one.
std::vector<Layout> LayoutsWithAllDimensions() {
  LayoutSpec spec = Valid();
  spec.modules[0].rank_count = 1;
  spec.modules[0].tp = 1;
  ModuleSpec& language = spec.modules[1];
  language.first_rank = 1;
  language.rank_count = 144;
  language.sequence_parallel = false;
  language.tp = 2;
  language.gtp_remat = 3;
  language.cp = 2;
  language.pp = 2;
  language.ep = 3;
  language.expert_tp = 4;
  language.expert_gtp_remat = 2;
  spec.world_size = 145;
  std::vector<Layout> layouts = {*Layout::Create(spec)};
  language.first_rank.reset();
  language.rank_count.reset();
  for (Rank rank = 144; rank >= 1; --rank) language.ranks.push_back(rank);
  std::swap(language.ranks[3], language.ranks[40]);
  std::swap(language.ranks[7], language.ranks[100]);
  layouts.push_back(*Layout::Create(spec));
  return layouts;
}

TEST(LayoutTest, StridedGroupsAndPositionsAreThoseOfEveryMember) {
  for (const Layout& layout : LayoutsWithAllDimensions()) {
    const Module& module = layout.language();
    for (const GroupKind& kind : GroupKinds()) {
      if (!module.Has(kind)) continue;
      for (int64_t g = 0; g < module.GroupCount(kind); ++g) {
        const std::vector<Rank> ranks = MembersOneByOne(module, kind, g);
        EXPECT_EQ(module.Group(kind, g), ranks);
        std::vector<Rank> expanded;
        for (const Strided& members : module.StridedGroup(kind, g)) {
          members.AppendTo(expanded);
        }
        EXPECT_EQ(expanded, ranks);
        if (module.listed_ranks().empty()) {
          ASSERT_EQ(module.StridedGroup(kind, g).size(), 1);
        }
        for (size_t i = 0; i < ranks.size(); ++i) {
          const int64_t index = *module.IndexOf(ranks[i]);
          EXPECT_EQ(module.GroupOf(kind, index), g);
          EXPECT_EQ(module.PositionOf(kind, index), i);
        }
      }
    }
  }
}

TEST(LayoutTest, AMillionRanksCostNoMoreThanEight) {
  LayoutSpec spec = Valid();
  spec.world_size = 1 << 20;
  spec.modules[1].rank_count = (1 << 20) - 4;
  const absl::StatusOr<Layout> layout = Layout::Create(spec);
  ASSERT_THAT(layout, IsOk());
  const Module& language = layout->language();
  EXPECT_EQ(language.dp(), (1 << 18) - 1);
  EXPECT_THAT(language.Group(*FindGroupKind("tp"), (1 << 19) - 3),
              ElementsAre((1 << 20) - 2, (1 << 20) - 1));
}

TEST(LayoutTest, EqualMeaningGivesAnEqualDigest) {
  LayoutSpec spec = Valid();
  const uint64_t digest = Layout::Create(spec)->digest();
  spec.name = "another-job";
  spec.modules[1].pp = 1;
  spec.modules[1].order = "tp-cp-pp-dp-ep";
  EXPECT_EQ(Layout::Create(spec)->digest(), digest);
  spec.modules[1].order = "cp-tp-dp";
  EXPECT_NE(Layout::Create(spec)->digest(), digest);
}

// Digests cross hosts and releases: this value may never change.
TEST(LayoutTest, DigestIsPinned) {
  EXPECT_EQ(Layout::Create(Valid())->digest(), 1859988822311760912u);
}

struct RefusalCase {
  std::string name;
  void (*spoil)(LayoutSpec&);
  std::string field;
  std::string complaint;
};

class LayoutRefusalTest : public ::testing::TestWithParam<RefusalCase> {};

TEST_P(LayoutRefusalTest, NamesFieldValueAndRule) {
  LayoutSpec spec = Valid();
  GetParam().spoil(spec);
  const Problems problems = Layout::Check(spec);
  EXPECT_THAT(Describe(problems),
              HasSubstr(absl::StrCat(GetParam().field, ": ")));
  EXPECT_THAT(Describe(problems), HasSubstr(GetParam().complaint));
  EXPECT_THAT(Layout::Create(spec), HasReason("INVALID_LAYOUT"));
}

INSTANTIATE_TEST_SUITE_P(
    OneBrokenRuleEach, LayoutRefusalTest,
    ::testing::ValuesIn(std::vector<RefusalCase>{
        {"NoName", [](LayoutSpec& s) { s.name = ""; }, "name", "is missing"},
        {"BadName", [](LayoutSpec& s) { s.name = "a b"; }, "name",
         "'a b' is not a valid name"},
        {"NoWorld", [](LayoutSpec& s) { s.world_size = 0; }, "world_size",
         "world_size=0 is not in [1, 16777216]"},
        {"HugeWorld", [](LayoutSpec& s) { s.world_size = INT64_MAX; },
         "world_size", "is not in [1, 16777216]"},
        {"NoModules", [](LayoutSpec& s) { s.modules.clear(); }, "modules",
         "0 modules are not in [1, 64]"},
        {"NoLanguage",
         [](LayoutSpec& s) { s.modules[1].role = Role::kEncoder; }, "modules",
         "exactly one module with role LANGUAGE, and there are 0"},
        {"TwoLanguages",
         [](LayoutSpec& s) { s.modules[0].role = Role::kLanguage; }, "modules",
         "and there are 2: images, language"},
        {"NoRole",
         [](LayoutSpec& s) { s.modules[0].role = Role::kUnspecified; },
         "modules[0].role", "is missing"},
        {"DuplicateName", [](LayoutSpec& s) { s.modules[1].name = "images"; },
         "modules[1].name", "'images' is the name of modules[0] already"},
        {"Gap", [](LayoutSpec& s) { s.modules[0].rank_count = 2; },
         "world_size",
         "ranks 2-3 belong to no module; the modules must cover [0, 8)"},
        {"GapAtTheEnd", [](LayoutSpec& s) { s.world_size = 9; }, "world_size",
         "rank 8 belongs to no module; the modules must cover [0, 9)"},
        {"Overlap", [](LayoutSpec& s) { s.modules[0].rank_count = 6; },
         "modules[1].first_rank",
         "ranks 4-5 belong to both 'images' and 'language'"},
        {"Colocated",
         [](LayoutSpec& s) {
           s.world_size = 4;
           s.modules[1].first_rank = 0;
         },
         "modules[1].first_rank", "(colocated)"},
        {"OutsideTheWorld", [](LayoutSpec& s) { s.world_size = 6; },
         "modules[1].first_rank",
         "'language' has ranks 6-7 which are outside [0, world_size=6)"},
        {"NoRanks",
         [](LayoutSpec& s) {
           s.modules[0].first_rank.reset();
           s.modules[0].rank_count.reset();
         },
         "modules[0].first_rank", "the module has no ranks"},
        {"HalfASpan", [](LayoutSpec& s) { s.modules[0].first_rank.reset(); },
         "modules[0].first_rank", "is missing"},
        {"SpanAndList", [](LayoutSpec& s) { s.modules[0].ranks = {0}; },
         "modules[0].ranks", "exclude each other"},
        {"NegativeFirstRank",
         [](LayoutSpec& s) { s.modules[0].first_rank = -1; },
         "modules[0].first_rank", "first_rank=-1 is not in"},
        {"HugeCount",
         [](LayoutSpec& s) { s.modules[0].rank_count = INT64_MAX; },
         "modules[0].rank_count", "rank_count=9223372036854775807 is not in"},
        {"NegativeRank",
         [](LayoutSpec& s) {
           s.modules[0].first_rank.reset();
           s.modules[0].rank_count.reset();
           s.modules[0].ranks = {-1, 0, 1, 2};
         },
         "modules[0].ranks[0]", "rank -1 is not in [0, 16777216)"},
        {"RankTwice",
         [](LayoutSpec& s) {
           s.modules[0].first_rank.reset();
           s.modules[0].rank_count.reset();
           s.modules[0].ranks = {0, 1, 1, 3};
         },
         "modules[0].ranks[2]", "rank 1 is listed twice, first as ranks[1]"},
        {"ZeroSize", [](LayoutSpec& s) { s.modules[0].tp = 0; },
         "modules[0].parallelism.tp", "tp=0 is not in [1, 16777216]"},
        {"NegativeSize", [](LayoutSpec& s) { s.modules[0].cp = -2; },
         "modules[0].parallelism.cp", "cp=-2 is not in"},
        {"HugeSizes",
         [](LayoutSpec& s) {
           s.modules[0].tp = s.modules[0].cp = s.modules[0].pp = 1 << 24;
         },
         "modules[0].rank_count", "which is above 16777216"},
        {"DoesNotDivide", [](LayoutSpec& s) { s.modules[1].tp = 3; },
         "modules[1].rank_count",
         "rank_count=4 must divide by tp*gtp_remat*cp*pp = 3*1*2*1 = 6"},
        {"DoesNotDivideHint", [](LayoutSpec& s) { s.modules[1].tp = 3; },
         "modules[1].rank_count", "next valid rank_count is 6 (+2)"},
        {"ExpertsDoNotDivide", [](LayoutSpec& s) { s.modules[1].ep = 3; },
         "modules[1].rank_count",
         "expert_tp*ep*expert_gtp_remat*pp = 1*3*1*1 = 3"},
        {"UnknownDimension",
         [](LayoutSpec& s) { s.modules[1].order = "tp-xp-cp"; },
         "modules[1].parallelism.order", "'xp' in 'tp-xp-cp' is not"},
        {"DimensionTwice",
         [](LayoutSpec& s) { s.modules[1].order = "tp-cp-tp"; },
         "modules[1].parallelism.order", "'tp' stands twice"},
        {"OrderTooLong",
         [](LayoutSpec& s) { s.modules[1].order = std::string(65, 't'); },
         "modules[1].parallelism.order", "has 65 bytes"},
        {"TooManyEdges", [](LayoutSpec& s) { s.edges.resize(64); }, "edges",
         "64 edges are above 63"},
        {"DimensionLeftOut", [](LayoutSpec& s) { s.modules[1].order = "tp"; },
         "modules[1].parallelism.order", "leaves out cp, whose size is 2"},
        {"PpGroupsDiffer",
         [](LayoutSpec& s) {
           ModuleSpec& m = s.modules[1];
           m.tp = 1;
           m.pp = 2;
           m.ep = 2;
           m.cp = 1;
           m.order = "cp-pp-dp";
         },
         "modules[1].parallelism.order", "pp groups of both views"},
        {"EdgeToNowhere", [](LayoutSpec& s) { s.edges[0].to = "languag"; },
         "edges[0].to",
         "there is no module 'languag' (did you mean 'language'?)"},
        {"EdgeToItself", [](LayoutSpec& s) { s.edges[0].to = "images"; },
         "edges[0].to", "cannot be joined to itself"},
        {"EdgeBackwards",
         [](LayoutSpec& s) {
           s.edges[0] = {"language", "images"};
         },
         "edges[0].from", "'language' is the language module"},
        {"EdgeToAnEncoder",
         [](LayoutSpec& s) {
           s.edges[0] = {"language", "images"};
         },
         "edges[0].to", "'images' is an encoder"},
        {"EdgeTwice", [](LayoutSpec& s) { s.edges.push_back(s.edges[0]); },
         "edges[1]", "is the same as edges[0]"},
    }),
    [](const auto& info) { return info.param.name; });

TEST(LayoutTest, AllProblemsComeAtOnce) {
  LayoutSpec spec = Valid();
  spec.name = "";
  spec.modules[0].tp = 0;
  spec.modules[1].rank_count = 5;
  spec.edges[0].to = "";
  EXPECT_GE(Layout::Check(spec).size(), 5);
}

int64_t BytesOf(const Problems& problems) {
  int64_t bytes = 0;
  for (const Problem& p : problems) {
    bytes += p.field.size() + p.description.size() + p.hint.size();
  }
  return bytes;
}

// Each of these is a few megabytes on the wire and was gigabytes of problems,
// or minutes of work, or undefined.
TEST(LayoutTest, ARefusalCostsLittleWhateverIsWrong) {
  constexpr int kMany = 1 << 17;
  const std::string long_name(1 << 20, 'x');
  std::vector<LayoutSpec> specs(7, Valid());
  specs[0].modules[1].order = std::string(1 << 20, '-');
  for (int i = 0; i < 64; ++i) specs[1].modules[1].order += "tp-";
  specs[2].modules.resize(kMany);
  for (int i = 0; i < kMany; ++i) {
    specs[3].edges.push_back({absl::StrCat("a", i), "language"});
  }
  specs[4].edges[0].to = long_name;
  specs[4].modules[0].name = long_name + "y";
  specs[5].modules[0].name = specs[5].modules[1].name = long_name;
  for (ModuleSpec& module : specs[5].modules) {
    module.first_rank.reset();
    module.rank_count.reset();
    for (int i = 0; i < 2000; ++i) module.ranks.push_back(2 * i);
  }
  specs[6].modules[1].first_rank.reset();
  specs[6].modules[1].rank_count.reset();
  specs[6].modules[1].ranks.assign(kMany, -1);
  for (const LayoutSpec& spec : specs) {
    const Problems problems = Layout::Check(spec);
    EXPECT_FALSE(problems.empty());
    EXPECT_LE(problems.size(), kProblemsMax);
    EXPECT_LE(BytesOf(problems), 1 << 20);
  }
}

TEST(CliqueNameTest, RoundTripsAndRefusesTheRest) {
  EXPECT_EQ(FormatCliqueName({"language", "tp", 3}), "language/tp/3");
  EXPECT_EQ(ParseCliqueName("language/tp/3")->index, 3);
  for (const char* bad :
       {"", "a", "a/b", "a/b/c", "a/b/-1", "a//1", "/b/1", "a/b/1/2"}) {
    EXPECT_EQ(ParseCliqueName(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace shardwright
