#include "worker/comm/nccl_communicator.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cuda_runtime_api.h"
#include "nvtx3/nvtx3.hpp"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/sync/mutex.h"
#include "proto/sync/spin.h"
#include "worker/comm/nccl_library.h"
#include "worker/comm/nccl_minter.h"
#include "worker/device/cuda_call.h"

namespace shardwright {
namespace {

// Device memory of a communicator, for its whole life: to allocate or free in
// the middle of an operation may wait for all others on the GPU, whose peers
// may wait for this one.
constexpr int64_t kStagingBytes = 2 << 20;

// Most thread blocks, and so channels, of a communicator that carries no rows.
// NCCL exchanges buffers of each channel with its peers: with all of them, some
// two dozen, that is most of the time that a clique takes to form.
constexpr int kFewCtas = 2;

// How often to look how far an operation is, and whether an idle communicator
// is whole. Most operations are over soon, and worth a busy core for so long.
constexpr absl::Duration kSpin = absl::Milliseconds(5);
constexpr absl::Duration kPollPeriod = absl::Microseconds(100);
constexpr absl::Duration kWatchPeriod = absl::Milliseconds(100);

// NCCL's communicator does not block, and no two threads may be in it: all
// calls hold mutex_, but for the one that ends it. That one is the watcher's,
// so that nobody who aborts waits, and that several communicators end at once:
// one whose peer is gone may hold up what another one does on the GPU.
class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(CliqueAttempt attempt, const NcclOptions& options,
                   const NcclLibrary& nccl)
      : attempt_(std::move(attempt)), options_(options), nccl_(nccl) {}

  ~NcclCommunicator() override;

  const std::vector<int64_t>& ranks() const override { return attempt_.ranks; }
  int position() const override { return attempt_.position; }

  absl::Status Connect(const std::vector<std::string>& slots);

  absl::Status AllGather(absl::Span<const char> input,
                         absl::Span<char> output) override {
    return AllGatherV(input, std::vector<int64_t>(size(), input.size()),
                      output);
  }
  absl::Status AllGatherV(absl::Span<const char> input,
                          absl::Span<const int64_t> byte_counts,
                          absl::Span<char> output) override;
  absl::Status Exchange(absl::Span<const Outgoing> sends,
                        absl::Span<const Incoming> receives) override;
  absl::Status Barrier() override;

  absl::Status status() const override {
    const MutexLock lock(mutex_);
    return end_;
  }
  void Abort(const absl::Status& why) override { (void)End(why); }

 private:
  // "clique language/tp/3 attempt 2: connect"
  std::string Where(absl::string_view step) const {
    return absl::StrCat("clique ", attempt_.clique, " attempt ",
                        attempt_.number, ": ", step);
  }

  absl::Status CheckSlots(const std::vector<std::string>& slots) const;
  absl::Status Allocate();
  ncclResult_t Init(const std::vector<std::string>& slots)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Starts something on the GPU by `start`, and waits until it is done. Ends
  // the communicator if that fails.
  template <typename Start>
  absl::Status Run(const char* step, Start start)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  absl::Status Gather(absl::Span<const char> input,
                      absl::Span<const int64_t> byte_counts, int64_t from,
                      int64_t chunk, absl::Span<char> output)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  absl::Status Await(const char* step, absl::Time deadline,
                     absl::Duration timeout);
  absl::Status Copy(void* to, const void* from, int64_t byte_count)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);

  void Watch();

  // The first end counts; returns it.
  absl::Status EndLocked(const absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (end_.ok()) {
      end_ = why;
      changed_.NotifyAll();
    }
    return end_;
  }
  absl::Status End(const absl::Status& why) {
    const MutexLock lock(mutex_);
    return EndLocked(why);
  }
  absl::Status FailLocked(absl::string_view step, ncclResult_t result)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Success, failure or ncclInProgress: of what was started last.
  ncclResult_t StateLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = nccl_.CommGetAsyncError(comm_, &state);
    return asked == ncclSuccess ? state : asked;
  }

  std::vector<int64_t> Others() const {
    std::vector<int64_t> others = ranks();
    others.erase(others.begin() + position());
    std::sort(others.begin(), others.end());
    return others;
  }

  const CliqueAttempt attempt_;
  const NcclOptions options_;
  const NcclLibrary& nccl_;

  Mutex operation_mutex_;  // One at a time.
  // The two are constant once connected; staging_ holds the operation's bytes.
  cudaStream_t stream_ = nullptr;
  char* staging_ = nullptr;

  mutable Mutex mutex_;
  CondVar changed_;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);      // OK until it is over.
  bool aborted_ ABSL_GUARDED_BY(mutex_) = false;  // NCCL has let go of it.
  ncclComm_t comm_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread watcher_;
};

NcclCommunicator::~NcclCommunicator() {
  Abort(absl::CancelledError("the communicator was destroyed"));
  if (watcher_.joinable()) watcher_.join();
  const MutexLock operation_lock(operation_mutex_);
  const CurrentDevice device(options_.device);
  // What failed here has failed before.
  if (stream_ != nullptr) {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }
  if (staging_ != nullptr) (void)cudaFree(staging_);
}

absl::Status NcclCommunicator::CheckSlots(
    const std::vector<std::string>& slots) const {
  bool good = slots.size() == static_cast<size_t>(attempt_.slot_count);
  for (const std::string& slot : slots) {
    good = good && slot.size() == NCCL_UNIQUE_ID_BYTES;
  }
  if (good && !slots.empty()) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_SLOT",
               absl::StrCat(Where("connect"), ": there are ", slots.size(),
                            " slots; there must be ", attempt_.slot_count,
                            " of ", NCCL_UNIQUE_ID_BYTES, " bytes each"));
}

ncclResult_t NcclCommunicator::Init(const std::vector<std::string>& slots) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  if (!attempt_.carries_rows) config.maxCTAs = kFewCtas;
  std::vector<ncclUniqueId> ids(slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    std::memcpy(ids[i].internal, slots[i].data(), NCCL_UNIQUE_ID_BYTES);
  }
  if (ids.size() == 1) {
    return nccl_.CommInitRankConfig(&comm_, size(), ids[0], position(),
                                    &config);
  }
  return nccl_.CommInitRankScalable(&comm_, size(), position(),
                                    static_cast<int>(ids.size()), ids.data(),
                                    &config);
}

absl::Status NcclCommunicator::Allocate() {
  RETURN_IF_ERROR(
      CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                 "cudaStreamCreateWithFlags"));
  // A byte a member at the least, see AllGatherV().
  const int64_t byte_count = std::max<int64_t>(kStagingBytes, size());
  return CudaStatus(cudaMalloc(reinterpret_cast<void**>(&staging_), byte_count),
                    "cudaMalloc");
}

absl::Status NcclCommunicator::Connect(const std::vector<std::string>& slots) {
  RETURN_IF_ERROR(CheckSlots(slots));
  const nvtx3::scoped_range range(Where("connect"));
  const CurrentDevice device(options_.device);
  const absl::Time deadline = absl::Now() + options_.connect_timeout;
  const absl::Status allocated = Allocate();
  if (!allocated.ok()) return End(allocated);
  {
    const MutexLock lock(mutex_);
    if (!end_.ok()) return end_;
    const ncclResult_t result = Init(slots);
    if (result != ncclSuccess && result != ncclInProgress) {
      (void)FailLocked("connect", result);
    }
  }
  watcher_ = std::thread([this] { Watch(); });
  return Await("connect", deadline, options_.connect_timeout);
}

absl::Status NcclCommunicator::Await(const char* step, absl::Time deadline,
                                     absl::Duration timeout) {
  const absl::Time begin = absl::Now();
  while (true) {
    {
      MutexLock lock(mutex_);
      if (!end_.ok()) return end_;
      const ncclResult_t state = StateLocked();
      if (state == ncclSuccess) {
        // Nothing may have been started yet: then the stream is empty.
        const cudaError_t at = cudaStreamQuery(stream_);
        if (at == cudaSuccess) return absl::OkStatus();
        if (at != cudaErrorNotReady) {
          return EndLocked(CudaStatus(at, Where(step).c_str()));
        }
      } else if (state != ncclInProgress) {
        return FailLocked(step, state);
      }
      const absl::Time now = absl::Now();
      if (now >= deadline) {
        // NCCL does not tell which of them.
        return EndLocked(
            PeersMissing(Where(step), Others(), absl::FormatDuration(timeout)));
      }
      if (now - begin >= kSpin) changed_.WaitFor(lock, kPollPeriod);
    }
    PauseCore();
  }
}

absl::Status NcclCommunicator::FailLocked(absl::string_view step,
                                          ncclResult_t result) {
  const std::string what = absl::StrCat(nccl_.GetErrorString(result), ": ",
                                        nccl_.GetLastError(comm_));
  if (result == ncclRemoteError) {
    return EndLocked(PeerLost(
        Where(step), size() == 2 ? Others() : std::vector<int64_t>(), what));
  }
  return EndLocked(Error(absl::StatusCode::kUnavailable, "COMM_BACKEND_FAILED",
                         absl::StrCat(Where(step), ": ", what)));
}

void NcclCommunicator::Watch() {
  ncclComm_t comm = nullptr;
  {
    MutexLock lock(mutex_);
    while (end_.ok()) {
      changed_.WaitFor(lock, kWatchPeriod);
      if (!end_.ok()) break;
      const ncclResult_t state = StateLocked();
      if (state != ncclSuccess && state != ncclInProgress) {
        (void)FailLocked("watch", state);
      }
    }
    // It stays: NCCL may write it until its own thread has ended. Nobody uses
    // it any more.
    comm = comm_;
  }
  if (comm == nullptr) return;
  const nvtx3::scoped_range range(Where("abort"));
  const CurrentDevice device(options_.device);
  (void)nccl_.CommAbort(comm);
  const MutexLock lock(mutex_);
  aborted_ = true;
  changed_.NotifyAll();
}

template <typename Start>
absl::Status NcclCommunicator::Run(const char* step, Start start) {
  const absl::Duration timeout = WithinDeadline(options_.operation_timeout);
  const absl::Time deadline = absl::Now() + timeout;
  {
    const MutexLock lock(mutex_);
    if (!end_.ok()) return end_;
    const ncclResult_t result = start(comm_);
    if (result != ncclSuccess && result != ncclInProgress) {
      return FailLocked(step, result);
    }
  }
  return Await(step, deadline, timeout);
}

// Between host and staging, while nothing else is in the stream.
absl::Status NcclCommunicator::Copy(void* to, const void* from,
                                    int64_t byte_count) {
  if (byte_count <= 0) return absl::OkStatus();
  RETURN_IF_ERROR(CudaStatus(
      cudaMemcpyAsync(to, from, byte_count, cudaMemcpyDefault, stream_),
      "cudaMemcpyAsync"));
  return CudaStatus(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

absl::Status NcclCommunicator::AllGatherV(absl::Span<const char> input,
                                          absl::Span<const int64_t> byte_counts,
                                          absl::Span<char> output) {
  const MutexLock operation_lock(operation_mutex_);
  RETURN_IF_ERROR(status());
  const int64_t most =
      *std::max_element(byte_counts.begin(), byte_counts.end());
  if (most == 0) return absl::OkStatus();
  const nvtx3::scoped_range range(Where("all-gather"));
  const CurrentDevice device(options_.device);
  const int64_t chunk =
      std::min(most, std::max<int64_t>(1, kStagingBytes / size()));
  for (int64_t from = 0; from < most; from += chunk) {
    const absl::Status gathered =
        Gather(input, byte_counts, from, chunk, output);
    // A member that has stopped half-way is of no more use to the others.
    if (!gathered.ok()) return End(gathered);
  }
  return absl::OkStatus();
}

// Bytes [from, from + chunk) of each member's input. All send as many, whatever
// they have: NCCL knows no other all-gather.
absl::Status NcclCommunicator::Gather(absl::Span<const char> input,
                                      absl::Span<const int64_t> byte_counts,
                                      int64_t from, int64_t chunk,
                                      absl::Span<char> output) {
  const auto count_of = [&](int i) {
    return std::clamp<int64_t>(byte_counts[i] - from, 0, chunk);
  };
  char* const own = staging_ + chunk * position();
  RETURN_IF_ERROR(Copy(own, input.data() + from, count_of(position())));
  RETURN_IF_ERROR(Run("all-gather", [&](ncclComm_t comm) {
    return nccl_.AllGather(own, staging_, chunk, ncclUint8, comm, stream_);
  }));
  if (std::count(byte_counts.begin(), byte_counts.end(), chunk) == size()) {
    return Copy(output.data(), staging_, output.size());  // As it lies.
  }
  int64_t offset = from;
  for (int i = 0; i < size(); ++i) {
    RETURN_IF_ERROR(
        Copy(output.data() + offset, staging_ + chunk * i, count_of(i)));
    offset += byte_counts[i];
  }
  return absl::OkStatus();
}

absl::Status NcclCommunicator::Exchange(absl::Span<const Outgoing> sends,
                                        absl::Span<const Incoming> receives) {
  const MutexLock operation_lock(operation_mutex_);
  const nvtx3::scoped_range range(Where("exchange"));
  const CurrentDevice device(options_.device);
  const absl::Status done = Run("exchange", [&](ncclComm_t comm) {
    ncclResult_t result = nccl_.GroupStart();
    if (result != ncclSuccess) return result;
    for (const auto& [peer, bytes] : receives) {
      if (result != ncclSuccess) break;
      if (bytes.empty()) continue;
      result = nccl_.Recv(bytes.data(), bytes.size(), ncclUint8, peer, comm,
                          stream_);
    }
    for (const auto& [peer, bytes] : sends) {
      if (result != ncclSuccess) break;
      if (bytes.empty()) continue;
      result = nccl_.Send(bytes.data(), bytes.size(), ncclUint8, peer, comm,
                          stream_);
    }
    // Whatever has happened, the thread leaves the group.
    const ncclResult_t ended = nccl_.GroupEnd();
    return result == ncclSuccess ? ended : result;
  });
  if (done.ok()) return done;
  // The buffers are the caller's: NCCL must have let go of them.
  {
    MutexLock lock(mutex_);
    while (!aborted_) changed_.Wait(lock);
  }
  (void)cudaStreamSynchronize(stream_);
  return done;
}

absl::Status NcclCommunicator::Barrier() {
  const MutexLock operation_lock(operation_mutex_);
  const nvtx3::scoped_range range(Where("barrier"));
  const CurrentDevice device(options_.device);
  const auto all_reduce =
      [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_) -> absl::Status {
    int32_t value = 1;
    char* const sum = staging_;
    RETURN_IF_ERROR(Copy(sum, &value, sizeof(value)));
    RETURN_IF_ERROR(Run("barrier", [&](ncclComm_t comm) {
      return nccl_.AllReduce(sum, sum, 1, ncclInt32, ncclSum, comm, stream_);
    }));
    RETURN_IF_ERROR(Copy(&value, staging_, sizeof(value)));
    if (value == size()) return absl::OkStatus();
    return Error(absl::StatusCode::kUnavailable, "COMM_BACKEND_FAILED",
                 absl::StrCat(Where("barrier"), ": a sum of ones is ", value,
                              " among ", size(), " members"));
  };
  const absl::Status done = all_reduce();
  return done.ok() ? done : End(done);
}

class NcclAttempt : public CommunicatorAttempt {
 public:
  NcclAttempt(std::shared_ptr<NcclCommunicator> communicator,
              std::map<int, std::unique_ptr<NcclMinter>> minters,
              absl::Duration mint_timeout)
      : communicator_(std::move(communicator)),
        minters_(std::move(minters)),
        mint_timeout_(mint_timeout) {}

  ~NcclAttempt() override {
    if (!connected_) {
      Abort(absl::CancelledError("the attempt was given up"));
    }
  }

  absl::StatusOr<std::map<int, std::string>> Slots() override {
    std::map<int, std::string> slots;
    for (const auto& [index, minter] : minters_) {
      absl::StatusOr<std::string> id = minter->Id(mint_timeout_);
      RETURN_IF_ERROR(communicator_->status());
      RETURN_IF_ERROR(id.status());
      slots[index] = *std::move(id);
    }
    return slots;
  }

  absl::StatusOr<std::shared_ptr<Communicator>> Connect(
      const std::vector<std::string>& slots) override {
    const absl::Status connected = communicator_->Connect(slots);
    // All have checked in, or never will.
    EndMinters();
    RETURN_IF_ERROR(connected);
    connected_ = true;
    return communicator_;
  }

  void Abort(const absl::Status& why) override {
    communicator_->Abort(why);
    EndMinters();
  }

 private:
  void EndMinters() {
    for (const auto& [index, minter] : minters_) minter->End();
  }

  const std::shared_ptr<NcclCommunicator> communicator_;
  const std::map<int, std::unique_ptr<NcclMinter>> minters_;
  const absl::Duration mint_timeout_;
  bool connected_ = false;  // Only Connect() and the destructor use it.
};

class NcclFactory : public CommunicatorFactory {
 public:
  NcclFactory(const NcclOptions& options, const NcclLibrary& nccl)
      : options_(options), nccl_(nccl) {}

  std::string backend() const override { return "nccl"; }

  absl::StatusOr<std::unique_ptr<CommunicatorAttempt>> Begin(
      const CliqueAttempt& attempt) override {
    std::map<int, std::unique_ptr<NcclMinter>> minters;
    for (const int index : attempt.slot_indexes) {
      ASSIGN_OR_RETURN(minters[index], NcclMinter::Start());
    }
    return std::make_unique<NcclAttempt>(
        std::make_shared<NcclCommunicator>(attempt, options_, nccl_),
        std::move(minters), options_.connect_timeout);
  }

 private:
  const NcclOptions options_;
  const NcclLibrary& nccl_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CommunicatorFactory>> CreateNcclFactory(
    const NcclOptions& options) {
  ASSIGN_OR_RETURN(const NcclLibrary* nccl, LoadNccl());
  return std::make_unique<NcclFactory>(options, *nccl);
}

}  // namespace shardwright
