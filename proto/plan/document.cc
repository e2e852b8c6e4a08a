#include "proto/plan/document.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "google/protobuf/descriptor.h"
#include "proto/status/utf8.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/yaml.h"

namespace shardwright {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

std::vector<std::string> FieldNames(const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) {
    names.push_back(type.field(i)->name());
  }
  return names;
}

std::string Join(absl::string_view path, absl::string_view name) {
  return absl::StrCat(path, path.empty() ? "" : ".", name);
}

// How the message calls what a node is.
std::string Quote(const YAML::Node& node) {
  if (node.IsNull()) return "nothing";
  if (node.IsSequence()) return "a list";
  if (node.IsMap()) return "a mapping";
  return absl::StrCat("'", node.Scalar().substr(0, 80), "'");
}

// Walks the YAML tree along the message's descriptor.
class Reader {
 public:
  explicit Reader(Document& document) : document_(document) {}

  void ReadMessage(const YAML::Node& node, const std::string& path,
                   Message& message) {
    const Descriptor& type = *message.GetDescriptor();
    // A message of one list is written as that list.
    if (node.IsSequence() && type.field_count() == 1 &&
        type.field(0)->is_repeated()) {
      ReadList(node, path, *type.field(0), message);
      return;
    }
    if (!node.IsMap()) {
      Add(path, node, absl::StrCat("must be a mapping and is ", Quote(node)));
      return;
    }
    std::set<std::string> seen;
    for (const auto& pair : node) {
      const std::string name = KeyOf(pair.first, path, seen);
      if (name.empty()) continue;
      const FieldDescriptor* const field = type.FindFieldByName(name);
      if (field == nullptr) {
        Add(Join(path, name), pair.first,
            absl::StrCat("unknown field '", name.substr(0, 80), "'"),
            HintForUnknown(name, type));
      } else if (!pair.second.IsNull()) {
        ReadField(pair.second, Join(path, name), *field, message);
      }
    }
  }

 private:
  void Add(const std::string& field, const YAML::Node& node,
           std::string description, std::string hint = "") {
    document_.lines.emplace(field, node.Mark().line + 1);
    document_.problems.push_back(
        {field, std::move(description), std::move(hint)});
  }

  // Notes the line of a key. Empty if it cannot be used.
  std::string KeyOf(const YAML::Node& key, const std::string& path,
                    std::set<std::string>& seen) {
    if (!key.IsScalar() || key.Scalar().empty()) {
      Add(path, key, absl::StrCat("a name cannot be ", Quote(key)));
      return "";
    }
    const std::string& name = key.Scalar();
    const std::string field = Join(path, name);
    if (!seen.insert(name).second) {
      const int first = document_.lines[field];
      // This problem is about the second one; nothing else will be.
      document_.lines[field] = key.Mark().line + 1;
      document_.problems.push_back(
          {field, absl::StrCat("is given twice, first in line ", first), ""});
      return "";
    }
    document_.lines[field] = key.Mark().line + 1;
    return name;
  }

  // Where the field does exist if it is only in the wrong place, else the
  // nearest name.
  static std::string HintForUnknown(const std::string& name,
                                    const Descriptor& type) {
    for (int i = 0; i < type.field_count(); ++i) {
      const Descriptor* const inner = type.field(i)->message_type();
      if (inner != nullptr && !type.field(i)->is_repeated() &&
          inner->FindFieldByName(name) != nullptr) {
        return absl::StrCat("it belongs in '", type.field(i)->name(), "'");
      }
    }
    const std::string hint = DidYouMean(name, FieldNames(type));
    return hint.empty() ? absl::StrCat("fields here are ",
                                       absl::StrJoin(FieldNames(type), ", "))
                        : hint;
  }

  void ReadField(const YAML::Node& node, const std::string& path,
                 const FieldDescriptor& field, Message& message) {
    if (field.is_map()) {
      ReadMap(node, path, field, message);
    } else if (field.is_repeated()) {
      ReadList(node, path, field, message);
    } else {
      ReadValue(node, path, field, message);
    }
  }

  void ReadMap(const YAML::Node& node, const std::string& path,
               const FieldDescriptor& field, Message& message) {
    if (!node.IsMap()) {
      Add(path, node, absl::StrCat("must be a mapping and is ", Quote(node)));
      return;
    }
    std::set<std::string> seen;
    for (const auto& pair : node) {
      const std::string name = KeyOf(pair.first, path, seen);
      if (name.empty()) continue;
      Message& entry = *message.GetReflection()->AddMessage(&message, &field);
      const Descriptor& type = *entry.GetDescriptor();
      entry.GetReflection()->SetString(&entry, type.map_key(), name);
      ReadValue(pair.second, Join(path, name), *type.map_value(), entry);
    }
  }

  void ReadList(const YAML::Node& node, const std::string& path,
                const FieldDescriptor& field, Message& message) {
    if (!node.IsSequence()) {
      Add(path, node, absl::StrCat("must be a list and is ", Quote(node)));
      return;
    }
    const bool messages = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    int64_t i = 0;
    for (const YAML::Node& element : node) {
      // A list of a million numbers needs no million paths: a number that is
      // wrong notes its own line.
      const std::string inner = messages || !IsInteger(element)
                                    ? absl::StrCat(path, "[", i, "]")
                                    : "";
      if (messages) document_.lines[inner] = element.Mark().line + 1;
      ReadValue(element, inner, field, message);
      ++i;
    }
  }

  static bool IsInteger(const YAML::Node& node) {
    int64_t value;
    return node.IsScalar() && absl::SimpleAtoi(node.Scalar(), &value);
  }

  static bool HasOnlyDigits(absl::string_view text) {
    absl::ConsumePrefix(&text, "-");
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
      return absl::ascii_isdigit(c);
    });
  }

  // One value: sets a single field, or adds to a repeated one.
  void ReadValue(const YAML::Node& node, const std::string& path,
                 const FieldDescriptor& field, Message& message) {
    const Reflection& reflection = *message.GetReflection();
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        ReadMessage(node, path,
                    field.is_repeated()
                        ? *reflection.AddMessage(&message, &field)
                        : *reflection.MutableMessage(&message, &field));
        return;
      case FieldDescriptor::CPPTYPE_INT64:
        ReadInteger(node, path, field, message);
        return;
      case FieldDescriptor::CPPTYPE_BOOL:
        if (node.IsScalar() &&
            (node.Scalar() == "true" || node.Scalar() == "false")) {
          reflection.SetBool(&message, &field, node.Scalar() == "true");
        } else {
          Add(path, node,
              absl::StrCat("must be true or false and is ", Quote(node)));
        }
        return;
      case FieldDescriptor::CPPTYPE_STRING:
        if (node.IsScalar()) {
          reflection.SetString(&message, &field, node.Scalar());
        } else {
          Add(path, node, absl::StrCat("must be text and is ", Quote(node)));
        }
        return;
      case FieldDescriptor::CPPTYPE_ENUM:
        ReadEnum(node, path, field, message);
        return;
      default:
        Add(path, node, absl::StrCat("cannot be given in a file"));
    }
  }

  void ReadInteger(const YAML::Node& node, const std::string& path,
                   const FieldDescriptor& field, Message& message) {
    const Reflection& reflection = *message.GetReflection();
    int64_t value = 0;
    if (node.IsScalar() && HasOnlyDigits(node.Scalar()) && !IsInteger(node)) {
      Add(path, node, absl::StrCat(Quote(node), " does not fit 64 bits"));
    } else if (!node.IsScalar() || node.Tag() == "!" ||  // "!": in quotes
               !absl::SimpleAtoi(node.Scalar(), &value)) {
      Add(path, node,
          absl::StrCat("must be a whole number and is ", Quote(node)),
          node.Tag() == "!" ? "numbers have no quotes" : "");
    } else if (field.is_repeated()) {
      reflection.AddInt64(&message, &field, value);
    } else {
      reflection.SetInt64(&message, &field, value);
    }
  }

  void ReadEnum(const YAML::Node& node, const std::string& path,
                const FieldDescriptor& field, Message& message) {
    std::vector<std::string> names;
    // The first value is *_UNSPECIFIED and nothing that one would write.
    for (int i = 1; i < field.enum_type()->value_count(); ++i) {
      names.push_back(field.enum_type()->value(i)->name());
    }
    const std::string text = node.IsScalar() ? node.Scalar() : "";
    if (std::find(names.begin(), names.end(), text) == names.end()) {
      Add(path, node,
          absl::StrCat("must be ", absl::StrJoin(names, " or "), " and is ",
                       Quote(node)),
          DidYouMean(text, names));
      return;
    }
    message.GetReflection()->SetEnum(&message, &field,
                                     field.enum_type()->FindValueByName(text));
  }

  Document& document_;
};

bool IsText(absl::string_view text) {
  return std::none_of(text.begin(), text.end(), [](unsigned char c) {
    return c < 0x20 && c != '\n' && c != '\r' && c != '\t';
  });
}

// Whether there is more than one document. YAML::LoadAll() would give documents
// without end for a comma that nothing precedes: ", a".
bool HasSecondDocument(const std::string& text) {
  class Ignore : public YAML::EventHandler {
    void OnDocumentStart(const YAML::Mark&) override {}
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                         YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                    YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}
  } ignore;
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  return parser.HandleNextDocument(ignore) && parser.HandleNextDocument(ignore);
}

}  // namespace

int Document::LineOf(absl::string_view field) const {
  std::string path(field);
  for (;;) {
    const auto found = lines.find(path);
    if (found != lines.end()) return found->second;
    const size_t end = path.find_last_of(".[");
    if (end == std::string::npos) return 1;
    path.resize(end);
  }
}

Document ReadDocument(absl::string_view text,
                      google::protobuf::Message& message) {
  Document document;
  if (!IsText(text)) {
    document.problems.push_back({"", "is not a text file", ""});
    return document;
  }
  const size_t utf8_end = Utf8PrefixLength(text);
  if (utf8_end < text.size()) {
    document.lines[""] = 1 + static_cast<int>(std::count(
                                 text.begin(), text.begin() + utf8_end, '\n'));
    document.problems.push_back({"", "is not UTF-8", ""});
    return document;
  }
  // yaml-cpp throws; this is the one place where we meet it.
  try {
    const std::string copy(text);
    const YAML::Node node = YAML::Load(copy);
    if (HasSecondDocument(copy)) {
      document.problems.push_back({"", "holds more than one document", ""});
    } else if (node.IsNull()) {
      document.problems.push_back({"", "is empty", ""});
    } else {
      Reader(document).ReadMessage(node, "", message);
    }
  } catch (const YAML::Exception& error) {
    document.lines[""] = std::max(0, error.mark.line) + 1;
    document.problems.push_back({"", error.msg, ""});
  }
  return document;
}

std::string FormatProblems(absl::string_view file, const Document& document,
                           const Problems& problems) {
  std::vector<std::pair<int, const Problem*>> by_line;
  for (const Problem& problem : problems) {
    by_line.emplace_back(document.LineOf(problem.field), &problem);
  }
  std::stable_sort(
      by_line.begin(), by_line.end(),
      [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string text;
  for (const auto& [line, problem] : by_line) {
    absl::StrAppend(&text, file, ":", line, ": ", problem->field,
                    problem->field.empty() ? "" : ": ", problem->description);
    if (!problem->hint.empty()) {
      absl::StrAppend(&text, " (", problem->hint, ")");
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

}  // namespace shardwright
