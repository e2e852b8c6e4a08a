// Files are read strictly, and every slip comes with its line.

#include "proto/plan/document.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardwright/v1/layout.pb.h"
#include "shardwright/v1/plan.pb.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kLayout[] = R"(name: vlm-8
world_size: 8
modules:
- {name: images, role: ENCODER, first_rank: 0, rank_count: 4, parallelism: {tp: 2}}
- name: language
  role: LANGUAGE
  ranks: [4, 5, 6, 7]
  parallelism:
    tp: 2
    sequence_parallel: true
edges:
- {from: images, to: language}
)";

TEST(ReadDocumentTest, ReadsYaml) {
  v1::Layout layout;
  const Document document = ReadDocument(kLayout, layout);
  EXPECT_THAT(FormatProblems("f", document, document.problems), IsEmpty());
  EXPECT_EQ(layout.modules(0).parallelism().tp(), 2);
  EXPECT_EQ(layout.modules(1).role(), v1::LANGUAGE);
  EXPECT_THAT(layout.modules(1).ranks(), ElementsAre(4, 5, 6, 7));
  EXPECT_TRUE(layout.modules(1).parallelism().sequence_parallel());
  EXPECT_EQ(layout.edges(0).to(), "language");
}

TEST(ReadDocumentTest, KnowsTheLineOfEveryField) {
  v1::Layout layout;
  const Document document = ReadDocument(kLayout, layout);
  EXPECT_EQ(document.LineOf("modules[0].parallelism.tp"), 4);
  EXPECT_EQ(document.LineOf("modules[1].parallelism.tp"), 9);
  EXPECT_EQ(document.LineOf("modules[1].ranks[2]"), 7);
  EXPECT_EQ(document.LineOf("modules[1].first_rank"), 5);
  EXPECT_EQ(document.LineOf("modules[9].name"), 3);
  EXPECT_EQ(document.LineOf(""), 1);
}

TEST(ReadDocumentTest, ReadsJsonWithListsOfListsAndNull) {
  v1::Batch batch;
  const Document document = ReadDocument(
      R"({"micro_batch_size": 1, "seq_length": 4,
          "special_token_ids": {"images": 501},
          "samples": [{"input_ids": [7, 501, 8, -9]}],
          "cu_seqlens_padded": [[0, 4]], "counts": null,
          "encoder_rows": {"images": [1, 0]}})",
      batch);
  EXPECT_THAT(document.problems, IsEmpty());
  EXPECT_THAT(batch.samples(0).input_ids(), ElementsAre(7, 501, 8, -9));
  EXPECT_THAT(batch.cu_seqlens_padded(0).offsets(), ElementsAre(0, 4));
  EXPECT_THAT(batch.encoder_rows().at("images").rows(), ElementsAre(1, 0));
  EXPECT_EQ(batch.special_token_ids().at("images"), 501);
}

struct ProblemCase {
  std::string name;
  std::string text;
  std::string complaint;
};

class ReadDocumentProblemTest : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(ReadDocumentProblemTest, NamesLineFieldAndRule) {
  v1::Layout layout;
  const Document document = ReadDocument(GetParam().text, layout);
  EXPECT_THAT(FormatProblems("f", document, document.problems),
              HasSubstr(GetParam().complaint));
}

INSTANTIATE_TEST_SUITE_P(
    Table, ReadDocumentProblemTest,
    ::testing::ValuesIn(std::vector<ProblemCase>{
        {"Empty", "", "f:1: is empty"},
        {"OnlyComments", "# nothing\n", "f:1: is empty"},
        {"Binary", std::string("\x00\x01", 2), "f:1: is not a text file"},
        {"BadSyntax", "a: [1,\nb: 2", "f:2: "},
        {"NotAMapping", "- 1", "f:1: must be a mapping and is a list"},
        {"NotUtf8", "name: a\nworld_size: \"\xc3\"", "f:2: is not UTF-8"},
        {"TwoDocuments", "name: a\n---\nname: b\n",
         "holds more than one document"},
        {"StrayComma", "{name: a}, b", "holds more than one document"},
        {"UnknownField", "name: a\nworldsize: 8",
         "f:2: worldsize: unknown field 'worldsize' (did you mean "
         "'world_size'?)"},
        {"UnknownNested", "modules:\n- parallelism:\n    tpp: 2",
         "f:3: modules[0].parallelism.tpp: unknown field 'tpp' (did you mean "
         "'tp'?)"},
        {"MisplacedField", "modules:\n- order: tp-cp",
         "f:2: modules[0].order: unknown field 'order' (it belongs in "
         "'parallelism')"},
        {"Twice", "name: a\nname: b",
         "f:2: name: is given twice, first in line 1"},
        {"NotANumber", "world_size: eight",
         "f:1: world_size: must be a whole number and is 'eight'"},
        {"QuotedNumber", "world_size: \"8\"", "numbers have no quotes"},
        {"Fraction", "world_size: 8.5", "is '8.5'"},
        {"TooLarge", "world_size: 99999999999999999999",
         "does not fit 64 bits"},
        {"NotAList", "modules: 3", "f:1: modules: must be a list and is '3'"},
        {"NotABool", "modules:\n- parallelism: {sequence_parallel: yes}",
         "must be true or false and is 'yes'"},
        {"NoSuchRole", "modules:\n- role: LANGUGE",
         "must be ENCODER or LANGUAGE and is 'LANGUGE' (did you mean "
         "'LANGUAGE'?)"},
        {"BadElement", "modules:\n- ranks:\n  - 1\n  - x",
         "f:4: modules[0].ranks[1]: must be a whole number and is 'x'"},
    }),
    [](const auto& info) { return info.param.name; });

TEST(ReadDocumentTest, GivesAllProblemsInTheOrderOfLines) {
  v1::Layout layout;
  const Document document =
      ReadDocument("wrld_size: 8\nname: [1]\nedges: {}\n", layout);
  const std::string text = FormatProblems("f", document, document.problems);
  EXPECT_EQ(document.problems.size(), 3);
  EXPECT_LT(text.find("f:1:"), text.find("f:2:"));
  EXPECT_LT(text.find("f:2:"), text.find("f:3:"));
}

TEST(NearestNameTest, FindsSlipsOnly) {
  EXPECT_EQ(NearestName("langauge", {"images", "language"}), "language");
  EXPECT_EQ(NearestName("TP", {"tp"}), "tp");
  EXPECT_EQ(NearestName("zebra", {"images", "language"}), "");
}

}  // namespace
}  // namespace shardwright
