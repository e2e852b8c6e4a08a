// JSON documents as YAML, for those who read both.

#ifndef CLIENT_CLI_YAML_TEXT_H_
#define CLIENT_CLI_YAML_TEXT_H_

#include <string>

#include "nlohmann/json.hpp"

namespace shardwright {

// The same document in YAML 1.2, keys in their order, lists of numbers on one
// line. A string that some reader of YAML might take for something else is
// quoted. No newline at the end.
std::string FormatYaml(const nlohmann::ordered_json& json);

}  // namespace shardwright

#endif  // CLIENT_CLI_YAML_TEXT_H_
