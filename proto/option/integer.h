// Integers as people type them on a command line: in base ten, whatever zeros
// they begin with.

#ifndef PROTO_OPTION_INTEGER_H_
#define PROTO_OPTION_INTEGER_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <string>

namespace shardwright {

// Has a value checked before a library converts it, which may take "010" for
// eight and replace what does not fit into 64 bits. Leaves the shortest text of
// the same integer, which every base-10 or base-detecting parser reads alike.
// Returns what is wrong, or nothing: other text, also behind the digits, or an
// integer that is not in [first, last]. The value is a validator of CLI11.
std::function<std::string(std::string&)> IntegerIn(
    int64_t first = std::numeric_limits<int64_t>::min(),
    int64_t last = std::numeric_limits<int64_t>::max());

}  // namespace shardwright

#endif  // PROTO_OPTION_INTEGER_H_
