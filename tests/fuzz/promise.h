// What a fuzz target does when a promise is broken: it says which, and dies.

#ifndef TESTS_FUZZ_PROMISE_H_
#define TESTS_FUZZ_PROMISE_H_

#include <cstdio>
#include <cstdlib>

#include "absl/status/status.h"
#include "proto/status/error.h"

namespace shardwright {

inline void Promise(const absl::Status& kept) {
  if (kept.ok()) return;
  std::fprintf(stderr, "BROKEN PROMISE: %s\n", kept.ToString().c_str());
  std::abort();
}

inline void Promise(bool kept, const char* what) {
  Promise(kept ? absl::OkStatus() : absl::InternalError(what));
}

// Every refusal is one error: a reason, a sentence, and details that gRPC can
// carry.
inline void PromiseOneError(const absl::Status& status) {
  Promise(!status.message().empty(), "an error has a message");
  const v1::ErrorDetail detail = DetailOf(status);
  Promise(!detail.reason().empty(), "an error has a reason");
  Promise(detail.ByteSizeLong() <= kErrorDetailBytesMax,
          "an error's details are short enough for gRPC");
}

}  // namespace shardwright

#endif  // TESTS_FUZZ_PROMISE_H_
