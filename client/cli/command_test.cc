// Exit codes and error text: what scripts branch on, and what people read.

#include "client/cli/command.h"

#include <sstream>

#include "gtest/gtest.h"
#include "proto/plan/problem.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

struct ExitCodeCase {
  absl::StatusCode code;
  int exit_code;
};

class ExitCodeTest : public ::testing::TestWithParam<ExitCodeCase> {};

TEST_P(ExitCodeTest, IsThatOfTheContract) {
  const absl::Status status(GetParam().code, "x");
  EXPECT_EQ(ExitCodeOf(status), GetParam().exit_code) << status;
}

INSTANTIATE_TEST_SUITE_P(
    EachCode, ExitCodeTest,
    ::testing::Values(ExitCodeCase{absl::StatusCode::kOk, 0},
                      ExitCodeCase{absl::StatusCode::kInternal, 1},
                      ExitCodeCase{absl::StatusCode::kUnavailable, 3},
                      ExitCodeCase{absl::StatusCode::kDeadlineExceeded, 3},
                      ExitCodeCase{absl::StatusCode::kResourceExhausted, 3},
                      ExitCodeCase{absl::StatusCode::kNotFound, 4},
                      ExitCodeCase{absl::StatusCode::kInvalidArgument, 5},
                      ExitCodeCase{absl::StatusCode::kOutOfRange, 5},
                      ExitCodeCase{absl::StatusCode::kPermissionDenied, 7},
                      ExitCodeCase{absl::StatusCode::kUnauthenticated, 7},
                      ExitCodeCase{absl::StatusCode::kAlreadyExists, 8},
                      ExitCodeCase{absl::StatusCode::kFailedPrecondition, 8},
                      ExitCodeCase{absl::StatusCode::kAborted, 8}));

TEST(FormatErrorTest, HasTheMessage) {
  EXPECT_EQ(FormatError(absl::InternalError("it broke")), "error: it broke\n");
}

TEST(FormatErrorTest, IsNeverEmpty) {
  EXPECT_EQ(FormatError(absl::UnimplementedError("")),
            "error: UNIMPLEMENTED\n");
}

TEST(FormatErrorTest, HasALineForEachProblem) {
  const Problems problems = {{"seq_length", "6 is odd", "take 8"},
                             {"", "nothing fits", ""}};
  EXPECT_EQ(FormatError(ProblemsToStatus("INVALID_BATCH", problems)),
            "error: 2 problems\n"
            "seq_length: 6 is odd (take 8)\n"
            "nothing fits\n");
}

TEST(FormatErrorTest, NamesMissingRanks) {
  v1::ErrorDetail detail;
  detail.set_reason("MEMBERS_MISSING");
  detail.mutable_missing()->set_ranges("0-3,17");
  const absl::Status status =
      Error(absl::StatusCode::kDeadlineExceeded, "5 ranks are missing", detail);
  EXPECT_EQ(FormatError(status),
            "error: 5 ranks are missing\nmissing ranks: 0-3,17\n");
}

TEST(FormatErrorTest, NamesTheCommandForASetThatWasCut) {
  v1::ErrorDetail detail;
  detail.set_reason("MEMBERS_MISSING");
  detail.mutable_missing()->set_ranges("0-3,17");
  detail.mutable_missing()->set_truncated(true);
  detail.mutable_missing()->set_report("7-12");
  const absl::Status status = Error(absl::StatusCode::kDeadlineExceeded,
                                    "90 ranks are missing", detail);
  EXPECT_EQ(FormatError(status),
            "error: 90 ranks are missing\n"
            "missing ranks: 0-3,17 and more\n"
            "all of them: shardctl explain missing 7-12 --coordinator "
            "HOST:PORT\n");
}

TEST(WithHintTest, KeepsReasonAndDetails) {
  const absl::Status status = WithHint(
      Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "no", {{"job", "x"}}),
      "did you mean 'y'?");
  EXPECT_EQ(status.message(), "no; did you mean 'y'?");
  EXPECT_EQ(ReasonOf(status), "JOB_NOT_FOUND");
  EXPECT_EQ(DetailOf(status).metadata().at("job"), "x");
}

// Text that was cut within a character, say; a library would throw.
TEST(ConsoleTest, PrintsBytesThatAreNoUtf8AsAMark) {
  for (OutputFormat format : {OutputFormat::kJson, OutputFormat::kYaml}) {
    std::ostringstream out, err;
    const Console console = {out, err, Terminal()};
    console.PrintDocument(
        nlohmann::ordered_json::object({{"file", "a\xff.yaml"}}), format);
    EXPECT_EQ(out.str(), format == OutputFormat::kJson
                             ? "{\"file\":\"a\uFFFD.yaml\"}\n"
                             : "file: \"a\uFFFD.yaml\"\n");
  }
}

TEST(FormatErrorTest, SaysWhatToTryNext) {
  const std::string text = FormatError(
      Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "no job 'x'"));
  EXPECT_EQ(text.rfind("error: no job 'x'\ntry: ", 0), 0u) << text;
}

}  // namespace
}  // namespace shardwright
