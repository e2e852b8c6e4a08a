#include "client/cli/command_tree.h"

#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace shardwright {
namespace {

// All of it that does not depend on the commands there are. Bash, and zsh's
// bashcompinit, call _shardctl with COMP_WORDS and COMP_CWORD.
constexpr char kScript[] = R"(_shardctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  local path=shardctl words='' values='' files='' i
  COMPREPLY=()
  # Bash splits --option=value at the sign.
  if [[ $cur == = ]]; then
    cur=''
  elif [[ $prev == = ]]; then
    prev=${COMP_WORDS[COMP_CWORD-2]}
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$path ${COMP_WORDS[i]}" in
      @COMMANDS@) path="$path ${COMP_WORDS[i]}" ;;
    esac
  done
  case "$path" in
@WORDS@  esac
  case "$path $prev" in
@VALUES@  esac
  if [[ -n $values ]]; then
    words=$values
    files=''
    [[ $values == FILE ]] && files=yes
    [[ $values == FILE || $values == NONE ]] && words=''
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [[ -n $files && $cur != -* ]]; then
    local IFS=$'\n'
    COMPREPLY+=($(compgen -f -- "$cur"))
    compopt -o filenames 2> /dev/null
  fi
  return 0
}
complete -F _shardctl shardctl
)";

using Visit =
    std::function<void(const std::string& path, const CLI::App& command)>;

void ForEachCommand(const std::string& path, const CLI::App& command,
                    const Visit& visit) {
  visit(path, command);
  for (const CLI::App* child : CommandsOf(command)) {
    ForEachCommand(absl::StrCat(path, " ", child->get_name()), *child, visit);
  }
}

// What may follow an option or stand for a positional: choices, "FILE", or
// "NONE" for what a script cannot know.
std::string ValuesOf(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  if (type == "FILE") return type;
  if (!absl::StrContains(type, '|')) return "NONE";
  return absl::StrReplaceAll(type, {{"|", " "}});
}

bool IsFlag(const CLI::Option& option) {
  return option.get_items_expected_max() == 0;
}

// `"shardctl get"` is a pattern of `case`.
std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", text, "\"");
}

std::string WordsCase(const std::string& path, const CLI::App& command) {
  std::vector<std::string> words;
  bool files = false;
  for (const CLI::App* child : CommandsOf(command)) {
    words.push_back(child->get_name());
  }
  for (const CLI::Option* option : OptionsOf(command)) {
    const std::vector<std::string> names = NamesOf(*option);
    words.insert(words.end(), names.begin(), names.end());
    if (!names.empty()) continue;
    const std::string values = ValuesOf(*option);
    files |= values == "FILE";
    if (values != "FILE" && values != "NONE") words.push_back(values);
  }
  return absl::StrCat("    ", Quoted(path), ") words='",
                      absl::StrJoin(words, " "), "'", files ? " files=yes" : "",
                      " ;;\n");
}

std::string ValueCases(const std::string& path, const CLI::App& command) {
  std::string text;
  for (const CLI::Option* option : OptionsOf(command)) {
    const std::vector<std::string> names = NamesOf(*option);
    if (names.empty() || IsFlag(*option)) continue;
    std::vector<std::string> patterns;
    patterns.reserve(names.size());
    for (const std::string& name : names) {
      patterns.push_back(Quoted(absl::StrCat(path, " ", name)));
    }
    absl::StrAppend(&text, "    ", absl::StrJoin(patterns, "|"), ") values='",
                    ValuesOf(*option), "' ;;\n");
  }
  return text;
}

}  // namespace

std::vector<const CLI::App*> CommandsOf(const CLI::App& command) {
  std::vector<const CLI::App*> commands;
  for (const CLI::App* child : command.get_subcommands({})) {
    // Option groups are subcommands without a name.
    if (!child->get_name().empty()) commands.push_back(child);
  }
  return commands;
}

std::vector<const CLI::Option*> OptionsOf(const CLI::App& command) {
  std::vector<const CLI::Option*> options = command.get_options();
  for (const CLI::App* child : command.get_subcommands({})) {
    if (!child->get_name().empty()) continue;
    for (const CLI::Option* option : OptionsOf(*child)) {
      // A group has inherited the help of its command.
      if (option != child->get_help_ptr()) options.push_back(option);
    }
  }
  return options;
}

std::vector<std::string> NamesOf(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) {
    names.push_back("-" + name);
  }
  for (const std::string& name : option.get_lnames()) {
    names.push_back("--" + name);
  }
  return names;
}

std::string BashCompletion(const CLI::App& app) {
  std::vector<std::string> commands;
  std::string words, values;
  ForEachCommand("shardctl", app,
                 [&](const std::string& path, const CLI::App& command) {
                   if (&command != &app) commands.push_back(Quoted(path));
                   words += WordsCase(path, command);
                   values += ValueCases(path, command);
                 });
  return absl::StrReplaceAll(kScript,
                             {{"@COMMANDS@", absl::StrJoin(commands, "|")},
                              {"@WORDS@", words},
                              {"@VALUES@", values}});
}

std::string ZshCompletion(const CLI::App& app) {
  return absl::StrCat(
      "autoload -U +X compinit && compinit\n"
      "autoload -U +X bashcompinit && bashcompinit\n",
      BashCompletion(app));
}

}  // namespace shardwright
