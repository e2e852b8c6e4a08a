#include "proto/option/address.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace shardwright {

std::string CheckHasPort(const std::string& text) {
  const size_t colon = text.rfind(':');
  const size_t bracket = text.rfind(']');
  const bool has_colon = colon != std::string::npos &&
                         (bracket == std::string::npos || bracket < colon);
  // IPv6 needs brackets, or its last group would pass for a port.
  const bool bare_ipv6 =
      std::count(text.begin(), text.end(), ':') > 1 &&
      text.find_first_not_of("0123456789abcdefABCDEF:") == std::string::npos;
  if (has_colon && colon + 1 < text.size() && !bare_ipv6) return "";
  return absl::StrCat("'", text, "' has no port: HOST:PORT");
}

}  // namespace shardwright
