#include "proto/plan/problem.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

constexpr size_t kNameBytesMax = 80;

// Levenshtein's distance, letters compared without case.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 0; j < b.size(); ++j) {
      const bool equal = absl::ascii_tolower(a[i]) == absl::ascii_tolower(b[j]);
      const size_t substituted = diagonal + (equal ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

void AddProblem(Problems& problems, std::string field, std::string description,
                std::string hint) {
  if (problems.size() >= kProblemsMax) return;
  problems.push_back(
      {std::move(field), std::move(description), std::move(hint)});
}

std::string QuoteName(absl::string_view name) {
  return absl::StrCat("'", name.substr(0, kNameBytesMax), "'");
}

absl::Status ProblemsToStatus(absl::string_view reason,
                              const Problems& problems) {
  if (problems.empty()) return absl::OkStatus();
  constexpr size_t kQuotedMax = 3;
  v1::ErrorDetail detail;
  detail.set_reason(std::string(reason));
  std::string message =
      problems.size() == 1 ? "" : absl::StrCat(problems.size(), " problems: ");
  for (size_t i = 0; i < problems.size(); ++i) {
    const Problem& problem = problems[i];
    v1::Violation& violation = *detail.add_violations();
    violation.set_field(problem.field);
    violation.set_description(problem.description);
    violation.set_hint(problem.hint);
    if (i < kQuotedMax) {
      absl::StrAppend(&message, i == 0 ? "" : "; ", problem.field,
                      problem.field.empty() ? "" : ": ", problem.description);
      if (!problem.hint.empty()) {
        absl::StrAppend(&message, " (", problem.hint, ")");
      }
    }
  }
  if (problems.size() > kQuotedMax) absl::StrAppend(&message, "; ...");
  return Error(absl::StatusCode::kInvalidArgument, message, std::move(detail));
}

Problems ProblemsFromStatus(const absl::Status& status) {
  Problems problems;
  const v1::ErrorDetail detail = DetailOf(status);
  for (const v1::Violation& violation : detail.violations()) {
    problems.push_back(
        {violation.field(), violation.description(), violation.hint()});
  }
  return problems;
}

std::string NearestName(absl::string_view name,
                        const std::vector<std::string>& names) {
  std::string nearest;
  if (name.size() > kNameBytesMax) return nearest;
  // A third of the letters may be wrong.
  size_t distance_max = std::max<size_t>(1, name.size() / 3);
  for (const std::string& candidate : names) {
    if (candidate.size() > kNameBytesMax) continue;
    const size_t distance = EditDistance(name, candidate);
    if (distance <= distance_max) {
      nearest = candidate;
      if (distance == 0) break;
      distance_max = distance - 1;
    }
  }
  return nearest;
}

std::string DidYouMean(absl::string_view name,
                       const std::vector<std::string>& names) {
  const std::string nearest = NearestName(name, names);
  return nearest.empty() ? "" : absl::StrCat("did you mean '", nearest, "'?");
}

}  // namespace shardwright
