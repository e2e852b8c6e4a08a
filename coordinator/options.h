// The coordinator's command line. README.md has the same table for people.

#ifndef COORDINATOR_OPTIONS_H_
#define COORDINATOR_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace shardwright {

struct CoordinatorOptions {
  enum class Store { kSqlite, kMemory };

  std::string listen = "127.0.0.1:7070";
  std::string port_file;
  Store store = Store::kSqlite;
  std::string store_path = "./shardwright.db";
  absl::Duration lease_ttl = absl::Seconds(10);
  int64_t admission_rate = 4096;
  std::vector<std::string> layout_files;
  std::string log_level = "info";
};

// Fills `options`. Returns the exit code if the process shall end here: 0 after
// --help, 2 after a mistake, which has been printed.
std::optional<int> ParseOptions(int argc, const char* const* argv,
                                CoordinatorOptions& options);

}  // namespace shardwright

#endif  // COORDINATOR_OPTIONS_H_
