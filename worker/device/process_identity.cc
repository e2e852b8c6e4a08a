#include "worker/device/process_identity.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

absl::Status NoCudaIpc(const std::string& message) {
  return Error(absl::StatusCode::kFailedPrecondition, "NO_CUDA_IPC", message);
}

}  // namespace

ProcessIdentity OwnProcessIdentity() {
  ProcessIdentity identity;
  identity.pid = getpid();
  struct stat info;
  if (stat("/proc/self/ns/pid", &info) == 0) {
    identity.pid_namespace = absl::StrCat(info.st_ino);
  }
  std::ifstream("/proc/sys/kernel/random/boot_id") >> identity.boot_id;
  if (stat("/dev/shm", &info) == 0) {
    identity.shm_device = absl::StrCat(info.st_dev);
  }
  return identity;
}

absl::Status CheckSharesMemory(const ProcessIdentity& worker,
                               const ProcessIdentity& trainer) {
  if (worker.boot_id != trainer.boot_id) {
    return NoCudaIpc(absl::StrCat(
        "gpu.process.boot_id is \"", trainer.boot_id.substr(0, 64),
        "\", the worker's \"", worker.boot_id,
        "\": device memory is shared on one machine only; use the worker of "
        "this machine"));
  }
  if (worker.pid != trainer.pid) return absl::OkStatus();
  if (worker.pid_namespace == trainer.pid_namespace) {
    return NoCudaIpc(absl::StrCat(
        "gpu.process.pid is ", trainer.pid,
        ", the worker itself: a process cannot open its own device memory; run "
        "plans in the process instead"));
  }
  return NoCudaIpc(absl::StrCat(
      "gpu.process.pid is ", trainer.pid,
      " in the trainer's pid namespace as in the worker's own, and CUDA takes "
      "the two for one process: let the containers share a pid namespace "
      "(shareProcessNamespace: true), or start one of them behind a shell, so "
      "that it gets another pid"));
}

std::string WhyNoSharedEvents(const ProcessIdentity& worker,
                              const ProcessIdentity& trainer) {
  if (!worker.shm_device.empty() && worker.shm_device == trainer.shm_device) {
    return "";
  }
  return absl::StrCat("/dev/shm is device \"", trainer.shm_device.substr(0, 64),
                      "\" at the trainer and \"", worker.shm_device,
                      "\" at the worker, and CUDA's shared events need one");
}

}  // namespace shardwright
