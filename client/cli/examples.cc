#include "client/cli/examples.h"

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace shardwright {
namespace {

// By command, a line each. LAYOUT, ONLINE and JOB stand for what Written() has.
const std::map<absl::string_view, absl::string_view>& Examples() {
  static const auto& examples =
      *new std::map<absl::string_view, absl::string_view>{
          {"layout validate", "layout validate LAYOUT"},
          {"layout groups",
           "layout groups --layout LAYOUT\n"
           "layout groups JOB -o json"},
          {"plan shard",
           "plan shard --layout LAYOUT --module language --seq-length 4096\n"
           "plan shard --layout LAYOUT --module language --seq-length 24 "
           "--cu-seqlens-padded 0,8,24 --rank 6 --rows -o json\n"
           "plan shard JOB --module language --seq-length 4096"},
          {"plan compose",
           "plan compose --layout LAYOUT --batch deploy/layouts/batch.json\n"
           "plan compose JOB --batch deploy/layouts/batch.json --rank 5"},
          {"plan route",
           "plan route --layout LAYOUT --batch deploy/layouts/batch.json "
           "--row-bytes 16384\n"
           "plan route JOB --batch deploy/layouts/batch.json --rows -o json"},
          {"plan compare",
           "plan compare --lengths 8192,4096,700,300,300,120 --cp 1,4\n"
           "plan compare --lengths-file deploy/layouts/lengths.txt "
           "--layout LAYOUT --cp 1,2,4,8\n"
           "plan compare --cu-seqlens 0,512,4096 JOB -o json"},
          {"apply",
           "apply -f LAYOUT ONLINE\n"
           "apply -f LAYOUT ONLINE --dry-run"},
          {"get layouts", "get layouts ONLINE"},
          {"get ranks", "get ranks JOB"},
          {"get groups", "get groups JOB"},
          {"get members", "get members JOB -o wide"},
          {"get workers", "get workers JOB -o json"},
          {"get communicators",
           "get communicators JOB\n"
           "get communicators JOB --inactive -o wide"},
          {"get events",
           "get events JOB\n"
           "get events JOB --after 10 -o json"},
          {"describe rank", "describe rank 5 JOB"},
          {"describe worker", "describe worker 5 JOB"},
          {"explain rank",
           "explain rank 5 --layout LAYOUT\n"
           "explain rank 5 JOB -o wide"},
          {"explain clique",
           "explain clique language/tp/0 JOB\n"
           "explain clique language/tp/0 JOB --all -o yaml"},
          {"explain missing", "explain missing REPORT ONLINE"},
          {"watch layouts",
           "watch layouts ONLINE\n"
           "watch layouts JOB --revision 0 -o json"},
          {"watch events", "watch events JOB -o json"},
          {"health", "health ONLINE"},
          {"completion bash", "completion bash > ~/.shardctl-completion"},
          {"completion zsh", "completion zsh > ~/.shardctl-completion"},
          {"version", "version"},
      };
  return examples;
}

std::string Written(absl::string_view example) {
  return absl::StrReplaceAll(
      absl::StrCat("  shardctl ", example),
      {{"LAYOUT", "deploy/layouts/main_job.yaml"},
       {"ONLINE", "--coordinator 127.0.0.1:7070"},
       {"JOB", "--coordinator 127.0.0.1:7070 --job main-job"}});
}

void AddTo(CLI::App& command, const std::string& path) {
  const auto it = Examples().find(path);
  if (it != Examples().end()) {
    std::string footer = "Examples:";
    for (absl::string_view example : absl::StrSplit(it->second, '\n')) {
      absl::StrAppend(&footer, "\n", Written(example));
    }
    command.footer(footer + "\n");
  }
  for (CLI::App* child : command.get_subcommands({})) {
    if (child->get_name().empty()) continue;
    AddTo(*child,
          absl::StrCat(path, path.empty() ? "" : " ", child->get_name()));
  }
}

}  // namespace

void AddExamples(CLI::App& app) { AddTo(app, ""); }

}  // namespace shardwright
