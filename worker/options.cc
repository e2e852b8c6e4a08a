#include "worker/options.h"

#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "proto/option/address.h"
#include "proto/option/integer.h"
#include "proto/plan/group_kind.h"
#include "proto/plan/layout.h"

namespace shardwright {
namespace {

constexpr int kExitUsage = 2;

std::string CheckKind(const std::string& name) {
  if (FindGroupKind(name) != nullptr) return "";
  std::string known;
  for (const GroupKind& kind : GroupKinds()) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", kind.name);
  }
  return absl::StrCat("\"", name, "\" is no group kind; there are ", known);
}

}  // namespace

std::optional<int> ParseOptions(int argc, const char* const* argv,
                                WorkerOptions& options) {
  CLI::App app("Moves the tokens of one rank of a training job.", "workerd");
  app.get_formatter()->column_width(34);
  int64_t form_timeout_seconds = absl::ToInt64Seconds(options.form_timeout);
  app.add_option("--coordinator", options.coordinator,
                 "host:port of the coordinator")
      ->check(CheckHasPort)
      ->capture_default_str();
  app.add_option("--job", options.job, "job, which is the name of its layout")
      ->required();
  app.add_option("--rank", options.rank, "rank in the job")
      ->required()
      ->transform(CLI::Validator(IntegerIn(0, kWorldSizeMax - 1), ""));
  app.add_option(
         "--listen", options.listen,
         "host:port to serve on; port 0 picks a free one; other workers "
         "connect to the host too")
      ->capture_default_str();
  app.add_option("--port-file", options.port_file,
                 "write the bound host:port to this file");
  app.add_option("--device", options.device, "host or cuda")
      ->check(CLI::IsMember({"host", "cuda"}))
      ->capture_default_str();
  app.add_option("--gpu", options.gpu,
                 "GPU of device cuda: index among those of this machine, or "
                 "UUID")
      ->capture_default_str();
  app.add_option(
         "--form-timeout", form_timeout_seconds,
         "seconds to wait for other members before saying so and trying "
         "again")
      ->transform(CLI::Validator(IntegerIn(1, 3600), "INT in [1 - 3600]"))
      ->capture_default_str();
  app.add_option("--kinds", options.kinds,
                 "group kinds to form communicators for, comma-separated; all "
                 "if absent")
      ->delimiter(',')
      ->check(CheckKind);
  app.add_option("--check-cliques", options.check_cliques,
                 "true: a clique proves itself by an all-reduce before it "
                 "counts as formed; as a rule only with device cuda");
  app.add_option("--log-level", options.log_level,
                 "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  options.form_timeout = absl::Seconds(form_timeout_seconds);
  return std::nullopt;
}

}  // namespace shardwright
