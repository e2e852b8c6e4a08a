// What is behind sw_worker and sw_session.

#ifndef CLIENT_NATIVE_SESSION_H_
#define CLIENT_NATIVE_SESSION_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cc/worker_client.h"
#include "client/native/call.h"
#include "client/native/handles.h"
#include "client/native/shardwright_region.h"
#include "client/native/shardwright_service.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/worker.pb.h"
#include "worker/device/cuda_ipc.h"

namespace shardwright {

// Which tables the worker has been sent in a session, as far as we remember.
// Thread-safe.
class SentTables {
 public:
  bool Has(const v1::PlanTable& name) const;
  void Add(const v1::PlanTable& name);

 private:
  // The worker forgets sooner or later; then it says so.
  static constexpr size_t kNamesMax = 1024;
  using Key = std::tuple<uint64_t, int64_t, int>;  // Digest, rank, kind.

  mutable Mutex mutex_;
  std::set<Key> names_ ABSL_GUARDED_BY(mutex_);
};

// The trainer's side of the order of its stream and the worker's. Thread-safe.
class StreamOrder {
 public:
  explicit StreamOrder(int ordinal) : ordinal_(ordinal) {}
  ~StreamOrder();

  int ordinal() const { return ordinal_; }

  // To be offered to the worker; empty if there can be none.
  std::string MakeReadyEvent();
  void Accept(const v1::GpuSession& agreement);

  // Ahead of a call that has the worker copy behind what is in `stream`. The
  // event has room for one call: running() is held until that is answered.
  Mutex& running() { return running_; }
  absl::Status Before(GpuStream stream);

 private:
  const int ordinal_;
  Mutex running_;
  std::unique_ptr<SharedEvent> ready_;
};

// Operations by the names of their tables, and those tables, in order.
struct Copies {
  v1::RunCopiesRequest request;  // Of no session yet.
  std::vector<const CopyTable*> tables;
};

// The caller's operations, checked as far as one can.
absl::StatusOr<Copies> CopiesFrom(const sw_operation* operations,
                                  int64_t count);
absl::StatusOr<Copies> CopiesFrom(const sw_region_operation* operations,
                                  int64_t count);

// Where the tensors of the C interface are. Those of 0 bytes are nowhere.
v1::Tensor ToProto(const sw_tensor& tensor);
v1::Tensor ToProto(const sw_region_tensor& tensor);

absl::Status CheckHasGpu(const sw_session* session);

// A request with the caller's segments, checked as far as one can.
absl::StatusOr<v1::OpenSessionRequest> SegmentsFrom(const sw_segment* segments,
                                                    int64_t segment_count);

}  // namespace shardwright

struct sw_worker : shardwright::LiveHandle {
  explicit sw_worker(shardwright::WorkerClient worker)
      : client(std::move(worker)) {}

  shardwright::WorkerClient client;
};

struct sw_session : shardwright::LiveHandle {
  explicit sw_session(shardwright::WorkerClient worker)
      : client(std::move(worker)) {}

  // Calls the worker; sends those tables that it does not have.
  absl::StatusOr<shardwright::v1::RunCopiesResponse> Run(
      shardwright::Copies copies) const;

  shardwright::WorkerClient client;
  std::shared_ptr<shardwright::StreamOrder> order;  // Null: no GPU.
  std::unique_ptr<shardwright::WorkerSession> session;
  mutable shardwright::SentTables sent;
};

#endif  // CLIENT_NATIVE_SESSION_H_
