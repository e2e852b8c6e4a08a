// What all listings do alike.

#ifndef COORDINATOR_CORE_PAGE_H_
#define COORDINATOR_CORE_PAGE_H_

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/status/error.h"

namespace shardwright {

// How many entries to return. `requested` is the client's, 0 if it has no wish.
inline int PageSize(int requested, int otherwise = 1000, int max = 10000) {
  return requested <= 0 ? otherwise : std::min(requested, max);
}

// INVALID_ARGUMENT INVALID_PAGE_TOKEN.
inline absl::Status InvalidPageToken(const std::string& token) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_PAGE_TOKEN",
               absl::StrCat("page_token \"", token, "\" is not one of ours"));
}

// The number that the page before ended with; -1 for the first page.
//
// Errors: InvalidPageToken().
inline absl::StatusOr<int64_t> NumberFromPageToken(const std::string& token) {
  int64_t number = -1;
  if (token.empty()) return number;
  if (!absl::SimpleAtoi(token, &number) || number < 0) {
    return InvalidPageToken(token);
  }
  return number;
}

}  // namespace shardwright

#endif  // COORDINATOR_CORE_PAGE_H_
