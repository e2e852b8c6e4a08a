// workerd: the worker of one rank. A member of its job, it keeps the rank's
// communicators formed, and carries out copy tables for the trainers of its
// machine.

#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/cc/coordinator_client.h"
#include "client/cc/lease_keeper.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "spdlog/spdlog.h"
#include "worker/agent/agent.h"
#include "worker/backend.h"
#include "worker/device/host_device.h"
#include "worker/options.h"
#include "worker/rpc/server.h"
#include "worker/rpc/worker_service.h"

namespace shardwright {
namespace {

constexpr int kExitUnexpected = 1;
constexpr int kExitInvalidInput = 5;
constexpr int kExitConflict = 8;

int ExitCodeOf(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  for (const char* conflict :
       {"FENCED", "MEMBER_ID_IN_USE", "GPU_IN_USE", "MIXED_NCCL_VERSIONS",
        "NCCL_LOOPBACK_ADDRESS"}) {
    if (reason == conflict) return kExitConflict;
  }
  return absl::IsInvalidArgument(status) ? kExitInvalidInput : kExitUnexpected;
}

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "localhost";
}

// Where others reach what listens on `host`.
std::string ReachableHost(const std::string& host) {
  const bool everywhere = host.empty() || host == "0.0.0.0" || host == "[::]";
  return everywhere ? HostName() : host;
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

absl::StatusOr<Backend> OpenBackend(const WorkerOptions& options,
                                    const std::string& host) {
  return options.device == "cuda" ? OpenCudaBackend(options)
                                  : OpenHostBackend(host);
}

AgentOptions AgentOptionsOf(const WorkerOptions& options,
                            const Backend& backend) {
  AgentOptions agent;
  agent.member.set_job(options.job);
  agent.member.set_rank(options.rank);
  agent.member.set_kind(v1::WORKER);
  agent.facts = backend.facts;
  agent.facts.set_host(HostName());
  agent.facts.set_pid(getpid());
  agent.incarnation = RandomIncarnation();
  agent.form_timeout = options.form_timeout;
  agent.kinds = options.kinds;
  agent.check_cliques =
      options.check_cliques.value_or(backend.factory->backend() == "nccl");
  return agent;
}

// Waits for a signal, or for the agent to fail.
absl::Status WaitForEnd(Agent& agent, const sigset_t& stop) {
  absl::Status end;
  const pthread_t main_thread = pthread_self();
  std::thread waiter([&agent, &end, main_thread] {
    end = agent.Wait();
    pthread_kill(main_thread, SIGTERM);
  });
  int signal = 0;
  sigwait(&stop, &signal);
  spdlog::info("event=shutting_down signal={}", signal);
  agent.Stop();
  waiter.join();
  return end;
}

absl::Status Serve(const WorkerOptions& options, const sigset_t& stop) {
  // Whoever waits for the file must not find that of an earlier run.
  if (!options.port_file.empty()) std::remove(options.port_file.c_str());
  const std::string host =
      ReachableHost(options.listen.substr(0, options.listen.rfind(':')));
  ASSIGN_OR_RETURN(const Backend backend, OpenBackend(options, host));
  // The agent itself repeats what fails, and says so.
  CoordinatorClient::Options client;
  client.call_timeout = absl::Seconds(5);
  client.retry_timeout = absl::ZeroDuration();
  Agent agent(CoordinatorClient::Create(options.coordinator, client),
              *backend.factory, AgentOptionsOf(options, backend));
  HostDevice host_device;
  WorkerService service(
      host_device, agent.cliques(),
      [&agent, &backend] {
        v1::WorkerDescription description = agent.Describe();
        backend.describe(description);
        return description;
      },
      backend.gpu_regions.get());
  ASSIGN_OR_RETURN(const std::unique_ptr<WorkerServer> server,
                   WorkerServer::Start(options.listen, service));
  const std::string& bound = server->address();
  const std::string address =
      absl::StrCat(host, bound.substr(bound.rfind(':')));
  spdlog::info(
      "event=serving address={} job={} rank={} pid={} device={} "
      "backend={}",
      address, options.job, options.rank, getpid(), backend.facts.device(),
      backend.facts.comm_backend());
  if (!options.port_file.empty()) {
    RETURN_IF_ERROR(WritePortFile(options.port_file, address));
  }
  agent.Start(address);
  return WaitForEnd(agent, stop);
}

// What one large message or a burst of calls took goes back to the machine, and
// does not stay in an arena of each of gRPC's threads.
void BoundFreeMemory() {
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
}

int Main(int argc, char** argv) {
  BoundFreeMemory();
  WorkerOptions options;
  if (const auto exit_code = ParseOptions(argc, argv, options)) {
    return *exit_code;
  }
  spdlog::set_level(spdlog::level::from_str(options.log_level));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %^%l%$ %v");
  // Before the first thread, so that all have them blocked.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGINT);
  sigaddset(&stop, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  const absl::Status status = Serve(options, stop);
  if (status.ok()) {
    spdlog::info("event=stopped");
    return 0;
  }
  std::cerr << "workerd: " << status.message() << std::endl;
  return ExitCodeOf(status);
}

}  // namespace
}  // namespace shardwright

int main(int argc, char** argv) {
  if (const auto exit_code = shardwright::RunBackendProcess(argc, argv)) {
    return *exit_code;
  }
  return shardwright::Main(argc, argv);
}
