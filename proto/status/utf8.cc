#include "proto/status/utf8.h"

namespace shardwright {

size_t Utf8CharacterLength(absl::string_view text) {
  if (text.empty()) return 0;
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
  }
  const bool overlong =
      (first == 0xe0 && at(1) < 0xa0) || (first == 0xf0 && at(1) < 0x90);
  const bool surrogate = first == 0xed && at(1) >= 0xa0;
  const bool too_high = first == 0xf4 && at(1) >= 0x90;
  return overlong || surrogate || too_high ? 0 : length;
}

size_t Utf8PrefixLength(absl::string_view text) {
  size_t end = 0;
  while (const size_t length = Utf8CharacterLength(text.substr(end))) {
    end += length;
  }
  return end;
}

bool IsUtf8(absl::string_view text) {
  return Utf8PrefixLength(text) == text.size();
}

}  // namespace shardwright
