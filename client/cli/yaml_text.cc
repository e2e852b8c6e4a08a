#include "client/cli/yaml_text.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"
#include "yaml-cpp/yaml.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

// Words that YAML 1.1 or 1.2 reads as a boolean or as nothing.
bool IsReserved(absl::string_view text) {
  for (absl::string_view word :
       {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}) {
    if (absl::AsciiStrToLower(text) == word) return true;
  }
  return false;
}

// yaml-cpp itself leaves "true" and "12" without quotes.
bool NeedsQuotes(absl::string_view text) {
  const auto is_plain = [](char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '/' ||
           c == '.';
  };
  return text.empty() || !absl::ascii_isalpha(text[0]) ||
         !std::all_of(text.begin(), text.end(), is_plain) || IsReserved(text);
}

void EmitString(const std::string& text, YAML::Emitter& out) {
  if (NeedsQuotes(text)) out << YAML::DoubleQuoted;
  out << text;
}

void Emit(const Json& json, YAML::Emitter& out) {
  if (json.is_object()) {
    out << YAML::BeginMap;
    for (const auto& [key, value] : json.items()) {
      out << YAML::Key;
      EmitString(key, out);
      out << YAML::Value;
      Emit(value, out);
    }
    out << YAML::EndMap;
  } else if (json.is_array()) {
    const bool flat =
        std::none_of(json.begin(), json.end(),
                     [](const Json& item) { return item.is_structured(); });
    if (flat) out << YAML::Flow;
    out << YAML::BeginSeq;
    for (const Json& item : json) Emit(item, out);
    out << YAML::EndSeq;
  } else if (json.is_string()) {
    EmitString(json.get_ref<const std::string&>(), out);
  } else if (json.is_null()) {
    out << YAML::Null;
  } else {
    out << json.dump();  // Numbers and booleans are those of JSON.
  }
}

}  // namespace

std::string FormatYaml(const nlohmann::ordered_json& json) {
  YAML::Emitter out;
  out.SetNullFormat(YAML::LowerNull);
  Emit(json, out);
  return out.c_str();
}

}  // namespace shardwright
