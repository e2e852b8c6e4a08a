#include "client/cli/command.h"

#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/yaml_text.h"
#include "proto/plan/problem.h"
#include "proto/status/error.h"
#include "proto/status/utf8.h"

namespace shardwright {
namespace {

// What a person can do about an error that is not about their input.
absl::string_view RemedyFor(absl::string_view reason) {
  static const auto& remedies =
      *new std::map<absl::string_view, absl::string_view>{
          {"JOB_NOT_FOUND",
           "list the jobs with 'shardctl get layouts', or apply a layout with "
           "'shardctl apply -f FILE'"},
          {"STALE_GENERATION",
           "see the generation in force with 'shardctl get layouts'"},
      };
  const auto it = remedies.find(reason);
  return it == remedies.end() ? absl::string_view() : it->second;
}

}  // namespace

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
      return kExitUnreachable;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return kExitInvalidInput;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kExitPermission;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      return kExitConflict;
    default:
      return kExitUnexpected;
  }
}

std::string FormatError(const absl::Status& status) {
  const v1::ErrorDetail detail = DetailOf(status);
  std::string text;
  // The message quotes only the first problems; here there is room for all.
  if (detail.violations_size() > 0) {
    absl::StrAppend(&text, "error: ", detail.violations_size(),
                    detail.violations_truncated() ? " or more" : "",
                    detail.violations_size() == 1 ? " problem" : " problems",
                    "\n");
    for (const v1::Violation& violation : detail.violations()) {
      absl::StrAppend(&text, violation.field(),
                      violation.field().empty() ? "" : ": ",
                      violation.description());
      if (!violation.hint().empty()) {
        absl::StrAppend(&text, " (", violation.hint(), ")");
      }
      absl::StrAppend(&text, "\n");
    }
  } else {
    // A server that does not know the method says no more than the code.
    std::string message(status.message());
    if (message.empty()) message = absl::StatusCodeToString(status.code());
    absl::StrAppend(&text, "error: ", message, "\n");
  }
  if (!detail.missing().ranges().empty()) {
    absl::StrAppend(&text, "missing ranks: ", detail.missing().ranges(),
                    detail.missing().truncated() ? " and more" : "", "\n");
    if (detail.missing().truncated() && !detail.missing().report().empty()) {
      absl::StrAppend(&text, "all of them: shardctl explain missing ",
                      detail.missing().report(), " --coordinator HOST:PORT\n");
    }
  }
  const absl::string_view remedy = RemedyFor(detail.reason());
  if (!remedy.empty()) absl::StrAppend(&text, "try: ", remedy, "\n");
  return text;
}

absl::Status CheckUtf8(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument(argv[i]);
    if (IsUtf8(argument)) continue;
    return Error(absl::StatusCode::kInvalidArgument, "ARGUMENT_NOT_UTF8",
                 absl::StrCat("argument ", i, ", '",
                              absl::CHexEscape(argument.substr(0, 80)),
                              "', is not UTF-8"),
                 {{"argument", absl::StrCat(i)}});
  }
  return absl::OkStatus();
}

absl::Status WithHint(const absl::Status& status, absl::string_view more) {
  if (more.empty()) return status;
  return Error(status.code(), absl::StrCat(status.message(), "; ", more),
               DetailOf(status));
}

std::string NotOneOf(const std::string& text,
                     const std::vector<std::string>& words) {
  const std::string hint = DidYouMean(text, words);
  return absl::StrCat("'", text, "' is not one of ", absl::StrJoin(words, ", "),
                      hint.empty() ? "" : ": ", hint);
}

void Console::PrintDocument(const nlohmann::ordered_json& json,
                            OutputFormat format) const {
  out << (format == OutputFormat::kYaml
              ? FormatYaml(json)
              : json.dump(/*indent=*/-1, ' ', /*ensure_ascii=*/false,
                          nlohmann::json::error_handler_t::replace))
      << '\n';
}

void Console::Print(absl::string_view text) const { out << text; }

void OnChosen(CLI::App& command, Outcome& outcome,
              std::function<absl::Status()> run) {
  command.callback(
      [&outcome, run = std::move(run)] { outcome.status = run(); });
}

void AddOutputOption(CLI::App& command, Console& console,
                     OutputFormat& format) {
  command
      .add_option("-o,--output", format,
                  "table for people, wide with more columns; json and yaml for "
                  "programs")
      ->transform(OneOf<OutputFormat>({{"table", OutputFormat::kTable},
                                       {"wide", OutputFormat::kWide},
                                       {"json", OutputFormat::kJson},
                                       {"yaml", OutputFormat::kYaml}}))
      ->type_name("table|wide|json|yaml");
  command.add_flag_callback(
      "--no-color", [&console] { console.terminal.color = false; },
      "no colours, on a terminal either");
}

}  // namespace shardwright
