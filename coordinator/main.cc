// coordinatord: holds the layouts of jobs, knows their members, brings their
// communicators together, and serves shard plans.

#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/options.h"
#include "coordinator/rpc/core_loop.h"
#include "coordinator/rpc/server.h"
#include "coordinator/storage/memory_state_store.h"
#include "coordinator/storage/sqlite_state_store.h"
#include "proto/plan/codec.h"
#include "proto/plan/document.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "spdlog/spdlog.h"

namespace shardwright {
namespace {

constexpr int kExitUnexpected = 1;
constexpr int kExitInvalidInput = 5;

// The date at the start and steady time from there on: leases must not feel the
// machine's date being set.
CoreLoop::Clock SteadyClock() {
  return [start = absl::Now(), steady = std::chrono::steady_clock::now()] {
    return start + absl::FromChrono(std::chrono::steady_clock::now() - steady);
  };
}

absl::StatusOr<std::unique_ptr<StateStore>> OpenStore(
    const CoordinatorOptions& options) {
  if (options.store == CoordinatorOptions::Store::kMemory) {
    return std::make_unique<MemoryStateStore>();
  }
  return SqliteStateStore::Open(options.store_path);
}

// INVALID_LAYOUT has the problems as its message, each with file and line.
absl::StatusOr<v1::ApplyLayoutRequest> ReadLayoutFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_LAYOUT",
                 absl::StrCat(path, ": cannot be read"));
  }
  v1::ApplyLayoutRequest request;
  const Document document = ReadDocument(text.str(), *request.mutable_layout());
  const Problems problems = CheckLayoutDocument(document, request.layout());
  if (!problems.empty()) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_LAYOUT",
                 FormatProblems(path, document, problems));
  }
  return request;
}

// Whoever waits for the file never sees half of it.
absl::Status WritePortFile(const std::string& path,
                           const std::string& address) {
  const std::string unfinished = absl::StrCat(path, ".tmp.", getpid());
  std::ofstream file(unfinished);
  file << address << "\n" << std::flush;
  if (!file || std::rename(unfinished.c_str(), path.c_str()) != 0) {
    return Error(absl::StatusCode::kUnavailable, "PORT_FILE_FAILED",
                 absl::StrCat("cannot write port file ", path));
  }
  return absl::OkStatus();
}

absl::Status Serve(const CoordinatorOptions& options, const sigset_t& stop) {
  // Whoever waits for the file must not find that of an earlier run.
  if (!options.port_file.empty()) std::remove(options.port_file.c_str());
  std::vector<v1::ApplyLayoutRequest> layouts;
  for (const std::string& path : options.layout_files) {
    ASSIGN_OR_RETURN(layouts.emplace_back(), ReadLayoutFile(path));
  }
  const CoreLoop::Clock clock = SteadyClock();
  ASSIGN_OR_RETURN(const std::unique_ptr<StateStore> store, OpenStore(options));
  CoordinatorCore::Options core_options;
  core_options.lease_ttl = options.lease_ttl;
  core_options.admission_rate = options.admission_rate;
  if (options.store == CoordinatorOptions::Store::kMemory) {
    core_options.number_base = absl::ToUnixMillis(clock());
  }
  ASSIGN_OR_RETURN(std::unique_ptr<CoordinatorCore> core,
                   CoordinatorCore::Start(*store, core_options, clock()));
  const int64_t term = core->term();
  CoreLoop loop(std::move(core), clock);
  // Without the address, layouts must not get into the store; without the
  // layouts, calls must not get to the core.
  std::unique_ptr<CoordinatorServer> server;
  RETURN_IF_ERROR(loop.Run([&](CoordinatorCore& locked, absl::Time now,
                               Effects& effects) -> absl::Status {
    ASSIGN_OR_RETURN(server, CoordinatorServer::Start(options.listen, loop));
    for (const v1::ApplyLayoutRequest& layout : layouts) {
      RETURN_IF_ERROR(locked.ApplyLayout(layout, now, effects).status());
    }
    return absl::OkStatus();
  }));
  spdlog::info("serving address={} term={} pid={} lease_ttl={} store={}",
               server->address(), term, getpid(),
               absl::FormatDuration(options.lease_ttl),
               options.store == CoordinatorOptions::Store::kMemory
                   ? "memory"
                   : options.store_path);
  if (!options.port_file.empty()) {
    RETURN_IF_ERROR(WritePortFile(options.port_file, server->address()));
  }
  int signal = 0;
  sigwait(&stop, &signal);
  spdlog::info("shutting_down signal={}", signal);
  server->Shutdown();
  return absl::OkStatus();
}

// What one large message or a burst of calls took goes back to the machine, and
// does not stay in an arena of each of gRPC's threads.
void BoundFreeMemory() {
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
}

int Main(int argc, char** argv) {
  BoundFreeMemory();
  CoordinatorOptions options;
  if (const auto exit_code = ParseOptions(argc, argv, options)) {
    return *exit_code;
  }
  spdlog::set_level(spdlog::level::from_str(options.log_level));
  spdlog::flush_on(spdlog::level::info);
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %^%l%$ %v");
  // Before the first thread, so that all have them blocked.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGINT);
  sigaddset(&stop, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  const absl::Status status = Serve(options, stop);
  if (status.ok()) {
    spdlog::info("stopped");
    return 0;
  }
  std::cerr << "coordinatord: " << status.message() << std::endl;
  return ReasonOf(status) == "INVALID_LAYOUT" ? kExitInvalidInput
                                              : kExitUnexpected;
}

}  // namespace
}  // namespace shardwright

int main(int argc, char** argv) { return shardwright::Main(argc, argv); }
