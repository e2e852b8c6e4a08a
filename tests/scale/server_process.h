// A real daemon in a process of its own, on a port of 127.0.0.1 that it picks
// itself, for tests and benchmarks. Not thread-safe.

#ifndef TESTS_SCALE_SERVER_PROCESS_H_
#define TESTS_SCALE_SERVER_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace shardwright {

// What a process uses now, from /proc.
struct ProcessUse {
  int64_t resident_bytes = 0;
  int threads = 0;
  int open_files = 0;
};

class ServerProcess {
 public:
  // Starts a program of this tree, such as "coordinator/coordinatord", and
  // waits until it listens. Dies if it does not.
  ServerProcess(const std::string& program, std::vector<std::string> arguments);

  // Kills it, as a crash does.
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  const std::string& address() const { return address_; }
  bool Running() const;
  ProcessUse Use() const;

 private:
  pid_t pid_ = -1;
  std::string directory_;
  std::string address_;
};

}  // namespace shardwright

#endif  // TESTS_SCALE_SERVER_PROCESS_H_
