// The command line: what is taken, what is refused, and that the README's table
// of flags is the one that the program has.

#include "coordinator/options.h"

#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::Optional;

std::optional<int> Parse(std::vector<const char*> arguments,
                         CoordinatorOptions& options) {
  arguments.insert(arguments.begin(), "coordinatord");
  return ParseOptions(static_cast<int>(arguments.size()), arguments.data(),
                      options);
}

std::set<std::string> FlagsIn(const std::string& text,
                              const std::string& pattern) {
  const std::regex flag(pattern);
  std::set<std::string> flags;
  for (std::sregex_iterator it(text.begin(), text.end(), flag), end; it != end;
       ++it) {
    flags.insert((*it)[1]);
  }
  return flags;
}

TEST(OptionsTest, DefaultsServeLocallyAndKeepState) {
  CoordinatorOptions options;
  EXPECT_EQ(Parse({}, options), std::nullopt);
  EXPECT_EQ(options.listen, "127.0.0.1:7070");
  EXPECT_EQ(options.store, CoordinatorOptions::Store::kSqlite);
  EXPECT_EQ(options.store_path, "./shardwright.db");
  EXPECT_EQ(options.lease_ttl, absl::Seconds(10));
}

TEST(OptionsTest, TakesEveryFlag) {
  CoordinatorOptions options;
  EXPECT_EQ(Parse({"--listen=0.0.0.0:0", "--port-file", "p", "--store=memory",
                   "--store-path=s", "--lease-ttl=3", "--layout=a", "--layout",
                   "b", "--log-level=debug", "--admission-rate=7"},
                  options),
            std::nullopt);
  EXPECT_EQ(options.listen, "0.0.0.0:0");
  EXPECT_EQ(options.port_file, "p");
  EXPECT_EQ(options.store, CoordinatorOptions::Store::kMemory);
  EXPECT_EQ(options.store_path, "s");
  EXPECT_EQ(options.lease_ttl, absl::Seconds(3));
  EXPECT_THAT(options.layout_files, ElementsAre("a", "b"));
  EXPECT_EQ(options.log_level, "debug");
  EXPECT_EQ(options.admission_rate, 7);
}

TEST(OptionsTest, NumbersAreDecimal) {
  CoordinatorOptions options;
  EXPECT_EQ(Parse({"--lease-ttl=010", "--admission-rate=08"}, options),
            std::nullopt);
  EXPECT_EQ(options.lease_ttl, absl::Seconds(10));
  EXPECT_EQ(options.admission_rate, 8);
}

TEST(OptionsTest, MistakesEndWithTheCodeForUsage) {
  for (const char* mistake :
       {"--lease-ttl=0", "--admission-rate=0", "--lease-ttl=soon",
        "--lease-ttl=0x10", "--admission-rate=99999999999999999999",
        "--store=paper", "--log-level=all", "--no-such-flag", "stray"}) {
    CoordinatorOptions options;
    EXPECT_THAT(Parse({mistake}, options), Optional(2)) << mistake;
  }
}

TEST(OptionsTest, ReadmeHasEveryFlagAndNoOther) {
  std::stringstream readme;
  readme << std::ifstream("coordinator/README.md").rdbuf();
  CoordinatorOptions options;
  testing::internal::CaptureStdout();
  EXPECT_THAT(Parse({"--help"}, options), Optional(0));
  std::set<std::string> flags = FlagsIn(testing::internal::GetCapturedStdout(),
                                        "(?:^|\n) *(?:-h,)?(--[a-z-]+)");
  flags.erase("--help");
  EXPECT_EQ(FlagsIn(readme.str(), "\\| `(--[a-z-]+)` \\|"), flags);
  EXPECT_EQ(flags.size(), 8u);
}

}  // namespace
}  // namespace shardwright
