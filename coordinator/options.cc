#include "coordinator/options.h"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "proto/option/integer.h"

namespace shardwright {
namespace {

constexpr int kExitUsage = 2;

}  // namespace

std::optional<int> ParseOptions(int argc, const char* const* argv,
                                CoordinatorOptions& options) {
  CLI::App app("Holds the parallelism layouts of training jobs.",
               "coordinatord");
  app.get_formatter()->column_width(34);
  std::string store = "sqlite";
  int64_t lease_ttl_seconds = absl::ToInt64Seconds(options.lease_ttl);
  app.add_option("--listen", options.listen,
                 "host:port to serve on; port 0 picks a free one")
      ->capture_default_str();
  app.add_option("--port-file", options.port_file,
                 "write the bound host:port to this file");
  app.add_option("--store", store, "sqlite, or memory to keep nothing")
      ->check(CLI::IsMember({"sqlite", "memory"}))
      ->capture_default_str();
  app.add_option("--store-path", options.store_path, "file of the SQLite store")
      ->capture_default_str();
  app.add_option("--lease-ttl", lease_ttl_seconds,
                 "seconds that a member may be silent")
      ->transform(CLI::Validator(IntegerIn(1, 3600), "INT in [1 - 3600]"))
      ->capture_default_str();
  app.add_option("--admission-rate", options.admission_rate,
                 "registrations and layouts a second; four times that at once")
      ->transform(CLI::Validator(IntegerIn(1, 1000000), "INT in [1 - 1000000]"))
      ->capture_default_str();
  app.add_option("--layout", options.layout_files,
                 "layout file to apply at start; may be repeated");
  app.add_option("--log-level", options.log_level,
                 "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  options.store = store == "memory" ? CoordinatorOptions::Store::kMemory
                                    : CoordinatorOptions::Store::kSqlite;
  options.lease_ttl = absl::Seconds(lease_ttl_seconds);
  return std::nullopt;
}

}  // namespace shardwright
