// The pictures, byte for byte: testdata/*.txt is what people see. A change of
// theirs is a decision; write the new bytes with
//   bazel run //client/cli:picture_test -- --update "$PWD/client/cli/testdata"

#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "client/cli/group_table.h"
#include "client/cli/plan_picture.h"
#include "coordinator/planner/planner.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

std::string* update_directory = nullptr;  // Write files instead of comparing.

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  using Iterator = std::istreambuf_iterator<char>;
  return std::string(Iterator(file), Iterator());
}

// Digests have tests of their own; here they would only hide the picture.
void ExpectPicture(const std::string& name, std::string picture) {
  const size_t digest = picture.find(", digest ");
  if (digest != std::string::npos) picture.replace(digest + 9, 16, 16, 'd');
  if (update_directory != nullptr) {
    std::ofstream(*update_directory + "/" + name + ".txt") << picture;
    return;
  }
  EXPECT_EQ(picture, ReadFile("client/cli/testdata/" + name + ".txt"));
}

struct Sizes {
  int64_t tp = 1, cp = 1, pp = 1;
  bool sequence_parallel = false;
  int64_t dp = 1;
};

// Four encoder ranks with tp 2, then a language module.
Layout MakeLayout(const Sizes& sizes) {
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
  language.rank_count = sizes.tp * sizes.cp * sizes.pp * sizes.dp;
  language.tp = sizes.tp;
  language.cp = sizes.cp;
  language.pp = sizes.pp;
  language.sequence_parallel = sizes.sequence_parallel;
  LayoutSpec spec;
  spec.name = "vlm-8";
  spec.world_size = 4 + *language.rank_count;
  spec.modules = {images, language};
  spec.edges = {{"images", "language"}};
  absl::StatusOr<Layout> layout = Layout::Create(spec);
  EXPECT_THAT(layout, IsOk());
  return *std::move(layout);
}

template <typename Plan>
std::vector<ShardPlan> PlanAll(const Layout& layout, Plan plan) {
  std::vector<ShardPlan> plans;
  for (int64_t i = 0; i < layout.language().rank_count(); ++i) {
    absl::StatusOr<ShardPlan> one = plan(layout.language().RankAt(i));
    EXPECT_THAT(one, IsOk());
    plans.push_back(*std::move(one));
  }
  return plans;
}

std::string DrawShard(const Layout& layout, const BatchShape& shape,
                      const Terminal& terminal) {
  const std::vector<ShardPlan> plans = PlanAll(
      layout, [&](Rank rank) { return PlanShard(layout, rank, shape); });
  return DrawShardPlans(layout, shape, plans, terminal);
}

std::string DrawCompose(const Layout& layout, const Batch& batch,
                        const Terminal& terminal) {
  const std::vector<ShardPlan> plans = PlanAll(
      layout, [&](Rank rank) { return PlanCompose(layout, rank, batch); });
  return DrawComposePlans(layout, batch, plans, terminal);
}

Terminal Pipe(bool utf8) {
  Terminal terminal;
  terminal.utf8 = utf8;
  return terminal;
}

Terminal Screen(int width, bool color) {
  Terminal terminal;
  terminal.width = width;
  terminal.utf8 = true;
  terminal.color = color;
  return terminal;
}

BatchShape Dense(int64_t seq_length, int64_t micro_batch_size) {
  BatchShape shape;
  shape.seq_length = seq_length;
  shape.micro_batch_size = micro_batch_size;
  return shape;
}

BatchShape Thd(std::vector<int64_t> padded, std::vector<int64_t> valid = {}) {
  BatchShape shape;
  shape.seq_length = padded.back();
  shape.micro_batch_size = 1;
  shape.cu_seqlens_padded = std::move(padded);
  shape.cu_seqlens = std::move(valid);
  return shape;
}

TEST(ShardPictureTest, ShowsWhichSliceOfTheSequenceEachRankOwns) {
  const Layout layout = MakeLayout({2, 2, 1, true});
  ExpectPicture("shard_dense", DrawShard(layout, Dense(4096, 2), Pipe(true)));
  ExpectPicture("shard_dense_ascii",
                DrawShard(layout, Dense(4096, 2), Pipe(false)));
}

TEST(ShardPictureTest, MarksDocumentsAndCountsPadding) {
  const Layout layout = MakeLayout({2, 2, 1, true});
  const BatchShape shape = Thd({0, 8, 24, 36}, {0, 7, 20, 32});
  ExpectPicture("shard_thd", DrawShard(layout, shape, Pipe(true)));
  ExpectPicture("shard_thd_ascii", DrawShard(layout, shape, Pipe(false)));
}

TEST(ShardPictureTest, ShadesCellsThatManyDocumentsShare) {
  std::vector<int64_t> padded = {0};
  while (padded.back() < 4000) {
    const int64_t length = 4 * static_cast<int64_t>(padded.size() % 7 + 1);
    padded.push_back(padded.back() + length);
  }
  ExpectPicture("shard_thd_many", DrawShard(MakeLayout({1, 2, 1, false}),
                                            Thd(padded), Pipe(true)));
}

TEST(ShardPictureTest, LaterStagesHaveLabelsOnly) {
  ExpectPicture("shard_stages", DrawShard(MakeLayout({1, 2, 2, false}),
                                          Dense(16, 1), Pipe(true)));
}

TEST(ShardPictureTest, OneRankHasItsWorkAsANumber) {
  const Layout layout = MakeLayout({2, 2, 1, true});
  const absl::StatusOr<ShardPlan> plan = PlanShard(layout, 6, Dense(64, 1));
  ASSERT_THAT(plan, IsOk());
  ExpectPicture("shard_one_rank",
                DrawShardPlans(layout, Dense(64, 1), {*plan}, Pipe(true)));
}

TEST(ShardPictureTest, FillsTheTerminalAndNoMore) {
  const Layout layout = MakeLayout({2, 2, 1, true});
  for (int width : {60, 80, 100, 132, 400}) {
    std::istringstream lines(
        DrawShard(layout, Dense(4096, 2), Screen(width, false)));
    for (std::string line; std::getline(lines, line);) {
      if (line.find('w') != std::string::npos) continue;  // Title and legend.
      EXPECT_LE(DisplayWidth(line), width) << line;
    }
  }
  ExpectPicture("shard_dense_80",
                DrawShard(layout, Dense(4096, 2), Screen(80, false)));
  ExpectPicture("shard_dense_color",
                DrawShard(layout, Dense(4096, 2), Screen(80, true)));
}

Batch MakeBatch(int64_t micro_batch_size,
                const std::vector<std::string>& samples) {
  Batch batch;
  batch.micro_batch_size = micro_batch_size;
  batch.seq_length = static_cast<int64_t>(samples[0].size());
  batch.special_token_ids = {{"images", 'i'}, {"audio", 'a'}};
  for (const std::string& sample : samples) {
    batch.samples.emplace_back(sample.begin(), sample.end());
  }
  return batch;
}

TEST(ComposePictureTest, HasALetterForEachSourceAndALineForEachSample) {
  const Batch batch =
      MakeBatch(2, {"ttiiiittttttttttttttaaaa", "ttttiiiiiittttttaattttii"});
  const Layout layout = MakeLayout({2, 2, 1, true});
  ExpectPicture("compose_dense", DrawCompose(layout, batch, Pipe(true)));
  ExpectPicture("compose_dense_ascii", DrawCompose(layout, batch, Pipe(false)));
}

TEST(ComposePictureTest, LanesHaveTheirOwnDocuments) {
  Batch batch =
      MakeBatch(1, {"ttiiiittttttttttttttaaaa", "ttttiiiiiittttttaattttii"});
  batch.cu_seqlens_padded = {{0, 8, 24}, {0, 12, 24}};
  ExpectPicture("compose_thd", DrawCompose(MakeLayout({1, 2, 1, false, 2}),
                                           batch, Pipe(true)));
}

TEST(ComposePictureTest, LongSequencesShowWhatMostOfACellIs) {
  std::string sample;
  while (sample.size() < 1440) {
    sample += std::string(sample.size() % 37 + 5, 't') + std::string(29, 'i');
  }
  sample.resize(1440);
  ExpectPicture("compose_long",
                DrawCompose(MakeLayout({2, 2, 1, true}), MakeBatch(1, {sample}),
                            Pipe(true)));
}

TEST(GroupTableTest, CompressesRanksAndCountsWhatDoesNotFit) {
  ExpectPicture("groups", FormatGroups(MakeLayout({2, 2, 2, true, 16}),
                                       Screen(80, false)));
}

TEST(FormatRanksTest, CompressesRangesAndEndsEarly) {
  EXPECT_EQ(FormatRanks({0, 1, 2, 3, 17}), "0-3,17");
  EXPECT_EQ(FormatRanks({6, 4, 5}), "6,4-5");
  EXPECT_EQ(FormatRanks({}), "");
  EXPECT_EQ(FormatRanks({0, 2, 4, 6, 8}, 4), "0,2,4,...");
}

}  // namespace
}  // namespace shardwright

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc == 3 && std::strcmp(argv[1], "--update") == 0) {
    shardwright::update_directory = new std::string(argv[2]);
  }
  return RUN_ALL_TESTS();
}
