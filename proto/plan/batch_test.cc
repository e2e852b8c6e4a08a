// A batch that does not fit its layout is refused with the numbers.

#include "proto/plan/batch.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Describe(const Problems& problems) {
  return absl::StrJoin(problems, "\n", [](std::string* out, const Problem& p) {
    absl::StrAppend(out, p.field, ": ", p.description, " (", p.hint, ")");
  });
}

Layout LayoutOf(int64_t tp, int64_t cp, bool sequence_parallel,
                int64_t dp = 1) {
  LayoutSpec spec;
  spec.name = "test";
  spec.world_size = tp * cp * dp + 2;
  ModuleSpec images, language;
  images.name = "images";
  images.role = Role::kEncoder;
  images.first_rank = 0;
  images.rank_count = 2;
  language.name = "language";
  language.role = Role::kLanguage;
  language.first_rank = 2;
  language.rank_count = tp * cp * dp;
  language.tp = tp;
  language.cp = cp;
  language.sequence_parallel = sequence_parallel;
  spec.modules = {images, language};
  return *Layout::Create(spec);
}

struct ShapeCase {
  std::string name;
  int64_t tp, cp;
  bool sequence_parallel;
  int64_t seq_length, micro_batch_size;
  std::vector<int64_t> cu_seqlens_padded, cu_seqlens;
  std::string complaint;  // Empty: valid.
};

class CheckShapeTest : public ::testing::TestWithParam<ShapeCase> {};

TEST_P(CheckShapeTest, SaysWhatIsWrong) {
  const ShapeCase& c = GetParam();
  const Layout layout = LayoutOf(c.tp, c.cp, c.sequence_parallel);
  const Problems problems = CheckShape(
      layout.language(),
      {c.seq_length, c.micro_batch_size, c.cu_seqlens_padded, c.cu_seqlens});
  if (c.complaint.empty()) {
    EXPECT_THAT(Describe(problems), IsEmpty());
  } else {
    EXPECT_THAT(Describe(problems), HasSubstr(c.complaint));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, CheckShapeTest,
    ::testing::ValuesIn(std::vector<ShapeCase>{
        {"Neither", 2, 1, false, 7, 3, {}, {}, ""},
        {"CpOnly", 4, 2, false, 8, 2, {}, {}, ""},
        {"CpOnlyOdd", 1, 2, false, 6, 1, {}, {}, "S=6 must divide by 2*cp = 4"},
        {"SpOnly", 3, 1, true, 9, 1, {}, {}, ""},
        {"SpOnlyOdd", 3, 1, true, 8, 1, {}, {}, "S=8 must divide by tp = 3"},
        {"Both", 4, 2, true, 32, 1, {}, {}, ""},
        {"BothOdd",
         4,
         2,
         true,
         24,
         1,
         {},
         {},
         "S=24 must divide by 2*cp*tp = 16 (next valid S is 32 (+8))"},
        {"ThePublishedExample",
         8,
         6,
         true,
         131072,
         1,
         {},
         {},
         "next valid S is 131136 (+64)"},
        {"NoTokens", 1, 1, false, 0, 1, {}, {}, "S=0 is not in"},
        {"HugeS", 1, 1, false, INT64_MAX, 1, {}, {}, "is not in"},
        {"NoSamples", 1, 1, false, 8, 0, {}, {}, "B=0 is not in"},
        {"Thd", 2, 2, true, 24, 1, {0, 8, 24}, {}, ""},
        {"ThdEmptySequence", 1, 2, false, 12, 1, {0, 4, 4, 12}, {}, ""},
        {"ThdManySamples",
         1,
         2,
         false,
         24,
         2,
         {0, 8, 24},
         {},
         "B=2 must be 1 with cu_seqlens_padded"},
        {"ThdShortTotal",
         1,
         2,
         false,
         16,
         1,
         {0, 8},
         {},
         "ends at 8 but the pack has 16 tokens"},
        {"ThdOddSequence",
         1,
         2,
         false,
         16,
         1,
         {0, 6, 16},
         {},
         "sequence 0: length=6 must divide by 2*cp = 4 (next valid length is 8 "
         "(+2))"},
        {"ThdFalls",
         1,
         1,
         false,
         16,
         1,
         {0, 8, 4, 16},
         {},
         "sequence 1 goes from 8 to 4"},
        {"ThdStartsLate",
         1,
         1,
         false,
         16,
         1,
         {4, 16},
         {},
         "must be 0 and is 4"},
        {"ThdOneEntry", 1, 1, false, 16, 1, {0}, {}, "at least two entries"},
        {"ThdSp",
         4,
         2,
         true,
         12,
         1,
         {0, 12},
         {},
         "S/cp=6 must divide by tp = 4"},
        {"Valid", 1, 2, false, 24, 1, {0, 8, 24}, {0, 5, 16}, ""},
        {"ValidTooLong",
         1,
         2,
         false,
         24,
         1,
         {0, 8, 24},
         {0, 9, 16},
         "sequence 0 has 9 tokens and with padding only 8"},
        {"ValidOtherCount",
         1,
         2,
         false,
         24,
         1,
         {0, 8, 24},
         {0, 16},
         "has 2 entries and cu_seqlens_padded 3"},
    }),
    [](const auto& info) { return info.param.name; });

Batch ValidBatch() {
  Batch batch;
  batch.micro_batch_size = 1;
  batch.seq_length = 4;
  batch.special_token_ids = {{"audio", 502}, {"images", 501}};
  batch.samples = {{7, 501, 501, 8}, {9, 9, 501, 502}};
  batch.counts = {{"images", 3}, {"text", 4}};
  batch.encoder_rows = {{"images", {1, 2}}};
  return batch;
}

TEST(CheckBatchTest, AcceptsWhatFits) {
  EXPECT_THAT(Describe(CheckBatch(LayoutOf(1, 1, false, 2), ValidBatch())),
              IsEmpty());
}

struct BatchCase {
  std::string name;
  void (*spoil)(Batch&);
  std::string complaint;
};

class CheckBatchTest : public ::testing::TestWithParam<BatchCase> {};

TEST_P(CheckBatchTest, SaysWhatIsWrong) {
  Batch batch = ValidBatch();
  GetParam().spoil(batch);
  EXPECT_THAT(Describe(CheckBatch(LayoutOf(1, 1, false, 2), batch)),
              HasSubstr(GetParam().complaint));
}

INSTANTIATE_TEST_SUITE_P(
    OneBrokenRuleEach, CheckBatchTest,
    ::testing::ValuesIn(std::vector<BatchCase>{
        {"SampleMissing", [](Batch& b) { b.samples.pop_back(); },
         "there are 1 samples and must be lanes*B = 2*1 = 2"},
        {"ShortSample", [](Batch& b) { b.samples[1].pop_back(); },
         "samples[1].input_ids: has 3 ids and must have S=4"},
        {"DuplicateIds", [](Batch& b) { b.special_token_ids["audio"] = 501; },
         "'audio' and 'images' have the same special token id 501"},
        {"TextIsNoModality", [](Batch& b) { b.special_token_ids["text"] = 1; },
         "'text' cannot name a modality"},
        {"CountDiffers", [](Batch& b) { b.counts["images"] = 24; },
         "'images' has 24 rows but input_ids have 3 of its tokens"},
        {"TextCountDiffers", [](Batch& b) { b.counts["text"] = 9; },
         "'text' has 9 rows but input_ids have 4 of its tokens"},
        {"CountOfNothing", [](Batch& b) { b.counts["image"] = 3; },
         "'image' has no entry in special_token_ids (did you mean 'images'?)"},
        {"EncoderRowsDiffer",
         [](Batch& b) {
           b.encoder_rows["images"] = {1, 1};
         },
         "'images' has 2 rows over all lanes but input_ids have 3"},
        {"EncoderRowsOtherLanes",
         [](Batch& b) { b.encoder_rows["images"] = {3}; },
         "has 1 entries and 'images' has 2 lanes"},
        {"EncoderRowsNegative",
         [](Batch& b) {
           b.encoder_rows["images"] = {-1, 4};
         },
         "negative or too large"},
        {"OnePackMissing",
         [](Batch& b) {
           b.cu_seqlens_padded = {{0, 4}};
         },
         "there are 1 lists and must be one a language lane, of which there "
         "are 2"},
        {"PackTotal",
         [](Batch& b) {
           b.cu_seqlens_padded = {{0, 4}, {0, 3}};
         },
         "cu_seqlens_padded[1][1]: ends at 3 but the pack has 4 tokens"},
    }),
    [](const auto& info) { return info.param.name; });

// Each of these is a few megabytes on the wire.
TEST(CheckBatchTest, ARefusalCostsLittleWhateverIsWrong) {
  constexpr int kMany = 1 << 17;
  const std::string long_name(1 << 20, 'x');
  const Layout layout = LayoutOf(1, 1, false);
  std::vector<Batch> batches(5, ValidBatch());
  batches[0].samples.resize(kMany);
  for (int i = 0; i < kMany; ++i) {
    batches[1].special_token_ids[absl::StrCat("m", i)] = i;
    batches[2].counts[absl::StrCat("m", i)] = i;
  }
  batches[3].special_token_ids[long_name] = 1;
  batches[3].counts[long_name + "y"] = 1;
  batches[4].cu_seqlens_padded.resize(kMany);
  for (const Batch& batch : batches) {
    const Problems problems = CheckBatch(layout, batch);
    EXPECT_FALSE(problems.empty());
    EXPECT_LE(problems.size(), kProblemsMax);
    for (const Problem& problem : problems) {
      EXPECT_LE(problem.field.size() + problem.description.size(), 1000);
    }
  }
}

}  // namespace
}  // namespace shardwright
