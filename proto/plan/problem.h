// Everything that is wrong with a document, collected: a reader gets all of it
// at once, and each with the place.

#ifndef PROTO_PLAN_PROBLEM_H_
#define PROTO_PLAN_PROBLEM_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace shardwright {

struct Problem {
  std::string field;        // "modules[1].parallelism.tp"; empty: the whole.
  std::string description;  // Value, rule and arithmetic, one sentence.
  std::string hint;         // What to do about it; may be empty.
};

using Problems = std::vector<Problem>;

// Enough to mend: what a refusal costs must not grow with what is wrong.
inline constexpr size_t kProblemsMax = 1000;

// Adds a problem, unless there are kProblemsMax.
void AddProblem(Problems& problems, std::string field, std::string description,
                std::string hint = "");

// A name from outside as a message has it: in quotes, and cut to 80 bytes.
std::string QuoteName(absl::string_view name);

// OK if there are none. Else INVALID_ARGUMENT with `reason`, one violation a
// problem, and a message that counts them and quotes the first ones.
absl::Status ProblemsToStatus(absl::string_view reason,
                              const Problems& problems);

// The problems that a status carries, as far as they fitted.
Problems ProblemsFromStatus(const absl::Status& status);

// The name nearest to `name`, if near enough to be a slip; else empty. For
// hints. Names above 80 bytes are near to nothing.
std::string NearestName(absl::string_view name,
                        const std::vector<std::string>& names);

// "did you mean 'x'?", or empty.
std::string DidYouMean(absl::string_view name,
                       const std::vector<std::string>& names);

}  // namespace shardwright

#endif  // PROTO_PLAN_PROBLEM_H_
