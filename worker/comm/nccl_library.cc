#include "worker/comm/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

constexpr char kFileName[] = "libnccl.so.2";

std::vector<std::string> Candidates() {
  std::vector<std::string> candidates = {kFileName};
  if (const char* home = std::getenv("CUDA_HOME")) {
    candidates.push_back(absl::StrCat(home, "/lib64/", kFileName));
  }
  candidates.push_back(absl::StrCat("/usr/local/cuda/lib64/", kFileName));
  return candidates;
}

// Loads one symbol; remembers the first that is missing.
template <typename Function>
void Find(void* library, const char* name, Function& function,
          std::string& missing) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr && missing.empty()) missing = name;
}

std::string VersionOf(const NcclLibrary& nccl) {
  int code = 0;
  if (nccl.GetVersion == nullptr || nccl.GetVersion(&code) != ncclSuccess) {
    return "of unknown version";
  }
  return absl::StrCat(code / 10000, ".", code / 100 % 100, ".", code % 100);
}

absl::StatusOr<const NcclLibrary*> Load() {
  void* library = nullptr;
  std::string tried;
  for (const std::string& candidate : Candidates()) {
    library = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
    absl::StrAppend(&tried, tried.empty() ? "" : "; ", dlerror());
  }
  if (library == nullptr) {
    return Error(absl::StatusCode::kUnavailable, "NCCL_NOT_FOUND",
                 absl::StrCat("NCCL cannot be loaded: ", tried,
                              ": install it, or name its folder in "
                              "LD_LIBRARY_PATH"));
  }
  static NcclLibrary nccl;
  std::string missing;
  Find(library, "ncclGetVersion", nccl.GetVersion, missing);
  Find(library, "ncclGetUniqueId", nccl.GetUniqueId, missing);
  Find(library, "ncclCommInitRankConfig", nccl.CommInitRankConfig, missing);
  Find(library, "ncclCommInitRankScalable", nccl.CommInitRankScalable, missing);
  Find(library, "ncclCommGetAsyncError", nccl.CommGetAsyncError, missing);
  Find(library, "ncclCommAbort", nccl.CommAbort, missing);
  Find(library, "ncclAllReduce", nccl.AllReduce, missing);
  Find(library, "ncclAllGather", nccl.AllGather, missing);
  Find(library, "ncclGroupStart", nccl.GroupStart, missing);
  Find(library, "ncclGroupEnd", nccl.GroupEnd, missing);
  Find(library, "ncclSend", nccl.Send, missing);
  Find(library, "ncclRecv", nccl.Recv, missing);
  Find(library, "ncclGetErrorString", nccl.GetErrorString, missing);
  Find(library, "ncclGetLastError", nccl.GetLastError, missing);
  nccl.version = VersionOf(nccl);
  if (missing.empty()) return &nccl;
  return Error(absl::StatusCode::kUnavailable, "NCCL_TOO_OLD",
               absl::StrCat("NCCL ", nccl.version, " has no ", missing,
                            "; 2.23 or newer is needed"));
}

}  // namespace

absl::StatusOr<const NcclLibrary*> LoadNccl() {
  static const absl::StatusOr<const NcclLibrary*> loaded = Load();
  return loaded;
}

}  // namespace shardwright
