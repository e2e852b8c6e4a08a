#include "client/cli/layout_commands.h"

#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "client/cli/group_table.h"
#include "client/cli/input_file.h"
#include "client/cli/plan_source.h"
#include "client/json/plan_json.h"
#include "proto/plan/codec.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

Json ValidationJson(const LayoutFile& file, const Problems& problems,
                    const Layout* layout) {
  Json json;
  json["file"] = file.path;
  json["valid"] = layout != nullptr;
  json["name"] = file.message.name();
  json["world_size"] = file.message.world_size();
  json["digest"] = nullptr;
  if (layout != nullptr) json["digest"] = DigestText(layout->digest());
  Json& list = json["problems"] = Json::array();
  for (const Problem& problem : problems) {
    list.push_back({{"line", file.document.LineOf(problem.field)},
                    {"field", problem.field},
                    {"description", problem.description},
                    {"hint", problem.hint}});
  }
  return json;
}

absl::Status Validate(const Console& console, const std::string& path,
                      OutputFormat format) {
  ASSIGN_OR_RETURN(const LayoutFile file, ReadLayoutFile(path));
  const Problems problems = file.Check();
  if (!problems.empty()) {
    if (IsDocument(format)) {
      console.PrintDocument(ValidationJson(file, problems, nullptr), format);
    }
    return DocumentError("INVALID_LAYOUT", path, file.document, problems);
  }
  ASSIGN_OR_RETURN(const Layout layout,
                   Layout::Create(LayoutSpecFromProto(file.message)));
  if (IsDocument(format)) {
    console.PrintDocument(ValidationJson(file, problems, &layout), format);
    return absl::OkStatus();
  }
  console.Print(absl::StrFormat(
      "'%s' is valid: layout %s of %d ranks, digest %016x\n", path,
      layout.name(), layout.world_size(), layout.digest()));
  for (const Module& module : layout.modules()) {
    console.Print(absl::StrFormat("  %s\n", FormatModule(module)));
  }
  return absl::OkStatus();
}

absl::Status PrintGroups(const Console& console,
                         const PlanSourceOptions& options,
                         OutputFormat format) {
  ASSIGN_OR_RETURN(const PlanSource source, PlanSource::Open(options));
  if (IsDocument(format)) {
    console.PrintDocument(GroupsJson(source.layout()), format);
  } else {
    console.Print(FormatGroups(source.layout(), console.terminal));
  }
  return absl::OkStatus();
}

}  // namespace

void AddLayoutCommands(CLI::App& app, Console& console, Outcome& outcome) {
  CLI::App& layout =
      *app.add_subcommand("layout", "Checks and explains a layout file");
  layout.require_subcommand(1);
  struct Arguments {
    std::string file;
    PlanSourceOptions source;
    OutputFormat format = OutputFormat::kTable;
  };
  const auto arguments = std::make_shared<Arguments>();

  CLI::App& validate = *layout.add_subcommand(
      "validate", "Says all that is wrong with a layout file");
  validate.add_option("file", arguments->file, "layout file, '-' for stdin")
      ->required()
      ->type_name("FILE");
  AddOutputOption(validate, console, arguments->format);
  OnChosen(validate, outcome, [&console, arguments] {
    return Validate(console, arguments->file, arguments->format);
  });

  CLI::App& groups = *layout.add_subcommand(
      "groups", "Lists the process groups of every module");
  AddPlanSourceOptions(groups, arguments->source);
  AddOutputOption(groups, console, arguments->format);
  OnChosen(groups, outcome, [&console, arguments] {
    return PrintGroups(console, arguments->source, arguments->format);
  });
}

}  // namespace shardwright
