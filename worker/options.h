// The worker's command line. README.md has the same table for people.

#ifndef WORKER_OPTIONS_H_
#define WORKER_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace shardwright {

struct WorkerOptions {
  std::string coordinator = "127.0.0.1:7070";
  std::string job;
  int64_t rank = 0;
  std::string listen = "127.0.0.1:0";
  std::string port_file;
  std::string device = "host";
  std::string gpu = "0";  // Index or UUID, for "cuda".
  absl::Duration form_timeout = absl::Seconds(60);
  std::vector<std::string> kinds;     // Empty: every kind.
  std::optional<bool> check_cliques;  // Nothing: with NCCL.
  std::string log_level = "info";
};

// Fills `options`. Returns the exit code if the process shall end here: 0 after
// --help, 2 after a mistake, which has been printed.
std::optional<int> ParseOptions(int argc, const char* const* argv,
                                WorkerOptions& options);

}  // namespace shardwright

#endif  // WORKER_OPTIONS_H_
