#include "proto/option/integer.h"

#include <charconv>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace shardwright {

std::function<std::string(std::string&)> IntegerIn(int64_t first,
                                                   int64_t last) {
  return [first, last](std::string& text) -> std::string {
    const char* const end = text.data() + text.size();
    int64_t value = 0;
    const auto [parsed_to, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc::invalid_argument || parsed_to != end) {
      return absl::StrCat("'", text, "' is not a number");
    }
    if (error == std::errc::result_out_of_range || value < first ||
        value > last) {
      return absl::StrCat("'", text, "' is out of range: from ", first, " to ",
                          last);
    }
    text = absl::StrCat(value);
    return "";
  };
}

}  // namespace shardwright
