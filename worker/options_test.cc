// The command line is a contract: what README.md says of it is what it is.

#include "worker/options.h"

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::optional<int> Parse(std::vector<const char*> arguments,
                         WorkerOptions& options) {
  arguments.insert(arguments.begin(), "workerd");
  return ParseOptions(static_cast<int>(arguments.size()), arguments.data(),
                      options);
}

TEST(WorkerOptionsTest, ReadsEveryFlag) {
  WorkerOptions options;
  ASSERT_EQ(Parse({"--coordinator", "c:1",      "--job",           "vlm",
                   "--rank",        "3",        "--listen",        "10.0.0.1:0",
                   "--port-file",   "/p",       "--device",        "cuda",
                   "--gpu",         "GPU-8f0c", "--form-timeout",  "7",
                   "--kinds",       "tp,tp_cp", "--check-cliques", "false",
                   "--log-level",   "debug"},
                  options),
            std::nullopt);
  EXPECT_EQ(options.coordinator, "c:1");
  EXPECT_EQ(options.job, "vlm");
  EXPECT_EQ(options.rank, 3);
  EXPECT_EQ(options.listen, "10.0.0.1:0");
  EXPECT_EQ(options.port_file, "/p");
  EXPECT_EQ(options.device, "cuda");
  EXPECT_EQ(options.gpu, "GPU-8f0c");
  EXPECT_EQ(options.check_cliques, false);
  EXPECT_EQ(options.form_timeout, absl::Seconds(7));
  EXPECT_THAT(options.kinds, ElementsAre("tp", "tp_cp"));
  EXPECT_EQ(options.log_level, "debug");
}

TEST(WorkerOptionsTest, MistakesAreUsageErrors) {
  const std::vector<std::vector<const char*>> mistakes = {
      {},
      {"--job", "vlm"},
      {"--rank", "0"},
      {"--job", "vlm", "--rank", "-1"},
      {"--job", "vlm", "--rank", "0", "--coordinator", "127.0.0.1"},
      {"--job", "vlm", "--rank", "x"},
      {"--job", "vlm", "--rank", "0x10"},
      {"--job", "vlm", "--rank", "99999999999999999999"},
      {"--job", "vlm", "--rank", "0", "--device", "tpu"},
      {"--job", "vlm", "--rank", "0", "--kinds", "tp,nope"},
      {"--job", "vlm", "--rank", "0", "--form-timeout", "0"},
      {"--job", "vlm", "--rank", "0", "--check-cliques", "perhaps"},
      {"--job", "vlm", "--rank", "0", "--log-level", "loud"},
      {"--job", "vlm", "--rank", "0", "--no-such-flag"},
  };
  for (const std::vector<const char*>& mistake : mistakes) {
    WorkerOptions options;
    EXPECT_EQ(Parse(mistake, options), 2) << ::testing::PrintToString(mistake);
  }
}

TEST(WorkerOptionsTest, NumbersAreDecimal) {
  WorkerOptions options;
  ASSERT_EQ(
      Parse({"--job", "vlm", "--rank", "010", "--form-timeout", "08"}, options),
      std::nullopt);
  EXPECT_EQ(options.rank, 10);
  EXPECT_EQ(options.form_timeout, absl::Seconds(8));
}

TEST(WorkerOptionsTest, HelpAndReadmeNameTheSameFlags) {
  ::testing::internal::CaptureStdout();
  WorkerOptions options;
  EXPECT_EQ(Parse({"--help"}, options), 0);
  const std::string help = ::testing::internal::GetCapturedStdout();
  std::ifstream file("worker/README.md");
  std::stringstream readme;
  readme << file.rdbuf();
  int flag_count = 0;
  std::string word;
  for (std::istringstream words(help); words >> word;) {
    if (word.rfind("--", 0) != 0 || word == "--help") continue;
    ++flag_count;
    EXPECT_THAT(readme.str(), HasSubstr("| `" + word + "` |"));
  }
  EXPECT_EQ(flag_count, 11);
}

}  // namespace
}  // namespace shardwright
