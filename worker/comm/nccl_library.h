// The machine's own NCCL, found when it is first used: one workerd starts where
// there is none, and a trainer's NCCL, loaded already, is the one that is used.

#ifndef WORKER_COMM_NCCL_LIBRARY_H_
#define WORKER_COMM_NCCL_LIBRARY_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nccl.h"

namespace shardwright {

// The functions that are used, by their names without the prefix.
struct NcclLibrary {
  std::string version;  // "2.28.9"

  decltype(&ncclGetVersion) GetVersion;
  decltype(&ncclGetUniqueId) GetUniqueId;
  decltype(&ncclCommInitRankConfig) CommInitRankConfig;
  decltype(&ncclCommInitRankScalable) CommInitRankScalable;
  decltype(&ncclCommGetAsyncError) CommGetAsyncError;
  decltype(&ncclCommAbort) CommAbort;
  decltype(&ncclAllReduce) AllReduce;
  decltype(&ncclAllGather) AllGather;
  decltype(&ncclGroupStart) GroupStart;
  decltype(&ncclGroupEnd) GroupEnd;
  decltype(&ncclSend) Send;
  decltype(&ncclRecv) Recv;
  decltype(&ncclGetErrorString) GetErrorString;
  decltype(&ncclGetLastError) GetLastError;
};

// Loads it, once a process, for good. Thread-safe. First "libnccl.so.2", as the
// dynamic linker finds it, then the same file in $CUDA_HOME/lib64 and in
// /usr/local/cuda/lib64.
//
// Errors:
//   UNAVAILABLE NCCL_NOT_FOUND: the message says where it was looked for.
//   UNAVAILABLE NCCL_TOO_OLD: older than 2.23; the message says what it lacks.
absl::StatusOr<const NcclLibrary*> LoadNccl();

}  // namespace shardwright

#endif  // WORKER_COMM_NCCL_LIBRARY_H_
