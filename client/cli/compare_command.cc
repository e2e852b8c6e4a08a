#include "client/cli/compare_command.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/cli/comparison.h"
#include "client/cli/input_file.h"
#include "client/cli/plan_source.h"
#include "proto/plan/problem.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

// Of all sizes together: JSON has a line for each, 10 MB with this many.
constexpr int64_t kRanksListedMax = 65536;

struct Options {
  std::vector<int64_t> lengths;
  std::string lengths_file;
  std::vector<int64_t> cu_seqlens;
  std::vector<int64_t> cps;
  std::optional<int64_t> tp;
  PlanSourceOptions source;
  OutputFormat format = OutputFormat::kTable;
};

absl::StatusOr<std::vector<int64_t>> LengthsOfStarts(
    const std::vector<int64_t>& cu_seqlens) {
  Problems problems;
  if (cu_seqlens[0] != 0) {
    problems.push_back({"cu_seqlens[0]",
                        absl::StrCat(cu_seqlens[0],
                                     " must be 0, where the "
                                     "first document starts"),
                        ""});
  }
  std::vector<int64_t> lengths;
  for (size_t i = 1; i < cu_seqlens.size(); ++i) {
    if (cu_seqlens[i] < cu_seqlens[i - 1]) {
      problems.push_back({absl::StrCat("cu_seqlens[", i, "]"),
                          absl::StrCat(cu_seqlens[i], " is below ",
                                       cu_seqlens[i - 1], ", the start before"),
                          ""});
    } else {
      lengths.push_back(cu_seqlens[i] - cu_seqlens[i - 1]);
    }
  }
  if (!problems.empty()) return ProblemsToStatus("INVALID_LENGTHS", problems);
  return lengths;
}

absl::StatusOr<std::vector<int64_t>> LengthsOf(const Options& options) {
  if (!options.lengths_file.empty()) return LoadNumbers(options.lengths_file);
  if (!options.cu_seqlens.empty()) return LengthsOfStarts(options.cu_seqlens);
  return options.lengths;
}

std::vector<int64_t> WithoutRepeats(const std::vector<int64_t>& values) {
  std::vector<int64_t> distinct;
  std::set<int64_t> seen;
  for (int64_t value : values) {
    if (seen.insert(value).second) distinct.push_back(value);
  }
  return distinct;
}

// What the user names wins over the layout, and that over the defaults.
absl::StatusOr<Comparison> Compare(const Options& options) {
  Comparison comparison;
  comparison.cps = options.cps;
  if (!options.source.layout_file.empty() ||
      !options.source.coordinator.empty()) {
    ASSIGN_OR_RETURN(const PlanSource source, PlanSource::Open(options.source));
    const Module& language = source.layout().language();
    if (language.sequence_parallel()) comparison.tp = language.tp();
    if (options.cps.empty()) comparison.cps = {language.cp()};
  }
  if (comparison.cps.empty()) comparison.cps = {1, 2, 4, 8};
  comparison.cps = WithoutRepeats(comparison.cps);
  comparison.tp = options.tp.value_or(comparison.tp);
  ASSIGN_OR_RETURN(comparison.lengths, LengthsOf(options));
  for (int64_t cp : comparison.cps) {
    RETURN_IF_ERROR(ProblemsToStatus(
        "INVALID_LENGTHS", CheckPack({comparison.lengths, cp, comparison.tp})));
  }
  return comparison;
}

absl::Status CheckListed(const Comparison& comparison) {
  int64_t ranks = 0;
  for (int64_t cp : comparison.cps) ranks += cp;
  if (ranks <= kRanksListedMax) return absl::OkStatus();
  return ProblemsToStatus(
      "INVALID_LENGTHS",
      {{"cp",
        absl::StrCat(ranks, " cp ranks together are above ", kRanksListedMax,
                     ", as json and yaml list each"),
        "-o table and wide list none"}});
}

absl::Status PlanCompareCommand(const Console& console,
                                const Options& options) {
  ASSIGN_OR_RETURN(const Comparison comparison, Compare(options));
  if (IsDocument(options.format)) {
    RETURN_IF_ERROR(CheckListed(comparison));
    console.PrintDocument(ComparisonJson(comparison), options.format);
  } else {
    console.Print(FormatComparison(
        comparison, options.format == OutputFormat::kWide, console.terminal));
  }
  return absl::OkStatus();
}

}  // namespace

void AddCompareCommand(CLI::App& plan, Console& console, Outcome& outcome) {
  const auto options = std::make_shared<Options>();
  CLI::App& compare = *plan.add_subcommand(
      "compare", "What context parallelism would cost for given documents");
  CLI::Option_group& lengths = *compare.add_option_group(
      "Documents", "the lengths of the documents of one pack");
  lengths.add_option("--lengths", options->lengths, "lengths in tokens")
      ->delimiter(',')
      ->transform(Integer())
      ->type_name("N,N,...");
  lengths
      .add_option("--lengths-file", options->lengths_file,
                  "the same from a file, '-' for stdin")
      ->type_name("FILE");
  lengths
      .add_option("--cu-seqlens", options->cu_seqlens,
                  "starts of the documents, and the total")
      ->delimiter(',')
      ->transform(Integer())
      ->type_name("0,N,...");
  lengths.require_option(1);
  compare
      .add_option("--cp", options->cps,
                  "context-parallel sizes (default: the layout's, or 1,2,4,8)")
      ->delimiter(',')
      ->transform(Integer())
      ->type_name("N,N,...");
  compare
      .add_option("--tp", options->tp,
                  "tensor-parallel size of sequence parallelism (default: the "
                  "layout's, or 1)")
      ->transform(Integer())
      ->type_name("N");
  AddPlanSourceOptions(compare, options->source, /*required=*/false);
  AddOutputOption(compare, console, options->format);
  OnChosen(compare, outcome, [&console, options] {
    return PlanCompareCommand(console, *options);
  });
}

}  // namespace shardwright
