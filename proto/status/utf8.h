// What protobuf takes for a string: it refuses to parse any other.

#ifndef PROTO_STATUS_UTF8_H_
#define PROTO_STATUS_UTF8_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace shardwright {

// Bytes of the UTF-8 character that `text` begins with; 0 if there is none.
size_t Utf8CharacterLength(absl::string_view text);

// Bytes before the first that is no UTF-8; all if there is none.
size_t Utf8PrefixLength(absl::string_view text);

bool IsUtf8(absl::string_view text);

}  // namespace shardwright

#endif  // PROTO_STATUS_UTF8_H_
