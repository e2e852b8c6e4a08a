#include "proto/plan/clique_name.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace shardwright {

std::string FormatCliqueName(const CliqueName& name) {
  return absl::StrCat(name.module, "/", name.kind, "/", name.index);
}

std::optional<CliqueName> ParseCliqueName(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '/');
  CliqueName name;
  if (parts.size() != 3 || parts[0].empty() || parts[1].empty() ||
      !absl::SimpleAtoi(parts[2], &name.index) || name.index < 0) {
    return std::nullopt;
  }
  name.module = std::string(parts[0]);
  name.kind = std::string(parts[1]);
  return name;
}

}  // namespace shardwright
