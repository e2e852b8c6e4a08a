// RETURN_IF_ERROR and ASSIGN_OR_RETURN, as everybody writes them.

#ifndef PROTO_STATUS_STATUS_MACROS_H_
#define PROTO_STATUS_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expr)                  \
  do {                                         \
    absl::Status status_macro_status = (expr); \
    if (!status_macro_status.ok()) {           \
      return status_macro_status;              \
    }                                          \
  } while (false)

#define STATUS_MACRO_CONCAT_INNER(a, b) a##b
#define STATUS_MACRO_CONCAT(a, b) STATUS_MACRO_CONCAT_INNER(a, b)

#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL(STATUS_MACRO_CONCAT(status_or_, __LINE__), lhs, expr)

#define ASSIGN_OR_RETURN_IMPL(temporary, lhs, expr) \
  auto temporary = (expr);                          \
  if (!temporary.ok()) {                            \
    return std::move(temporary).status();           \
  }                                                 \
  lhs = *std::move(temporary)

#endif  // PROTO_STATUS_STATUS_MACROS_H_
