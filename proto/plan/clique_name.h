// Names of cliques, the communicators of one group: "language/tp/3".

#ifndef PROTO_PLAN_CLIQUE_NAME_H_
#define PROTO_PLAN_CLIQUE_NAME_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace shardwright {

// Module, group kind, and which of the module's groups of that kind.
struct CliqueName {
  std::string module;
  std::string kind;
  int64_t index = 0;
};

std::string FormatCliqueName(const CliqueName& name);

// Nothing if it is not of that form. Does not look at any layout.
std::optional<CliqueName> ParseCliqueName(absl::string_view text);

}  // namespace shardwright

#endif  // PROTO_PLAN_CLIQUE_NAME_H_
