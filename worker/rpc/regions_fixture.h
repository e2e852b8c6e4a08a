// What the tests of regions have in common.

#ifndef WORKER_RPC_REGIONS_FIXTURE_H_
#define WORKER_RPC_REGIONS_FIXTURE_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "client/cc/worker_client.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/agent/clique_table.h"
#include "worker/device/host_device.h"
#include "worker/device/process_identity.h"
#include "worker/rpc/fake_region_device.h"
#include "worker/rpc/server.h"
#include "worker/rpc/worker_service.h"

namespace shardwright {

// Rows of 2 bytes: row 1 of a source of 3, one filled row, row 0.
inline v1::CopyTable Table() {
  v1::CopyTable table;
  table.set_destination_rows(3);
  table.add_source_rows(3);
  const std::vector<std::pair<int, int64_t>> rows = {{0, 1}, {-1, 0}, {0, 0}};
  for (size_t i = 0; i < rows.size(); ++i) {
    v1::RowCopy& entry = *table.add_entries();
    entry.set_source(rows[i].first);
    entry.set_source_row(rows[i].second);
    entry.set_destination_row(static_cast<int64_t>(i));
    entry.set_destination_stride(1);
    entry.set_row_count(1);
  }
  return table;
}

inline v1::PlanTable Name(uint64_t digest) {
  v1::PlanTable name;
  name.set_digest(digest);
  name.set_rank(4);
  return name;
}

// A trainer of another process of this machine.
inline v1::TrainerGpu Trainer() {
  const ProcessIdentity own = OwnProcessIdentity();
  v1::TrainerGpu trainer;
  trainer.set_gpu_uuid("GPU-fake");
  trainer.mutable_process()->set_pid(own.pid + 1);
  trainer.mutable_process()->set_pid_namespace(own.pid_namespace);
  trainer.mutable_process()->set_boot_id(own.boot_id);
  trainer.mutable_process()->set_shm_device(own.shm_device);
  trainer.set_ready_event(FakeRegionDevice::Handle("ready"));
  return trainer;
}

inline bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (absl::Now() < deadline) {
    if (condition()) return true;
    std::this_thread::yield();
  }
  return false;
}

// A worker whose GPU is host memory, and a session with two regions of six
// bytes, which lie in the middle of allocations.
class RegionsTest : public ::testing::Test {
 protected:
  RegionsTest()
      : service_(
            host_, cliques_, [] { return v1::WorkerDescription(); }, &gpu_),
        server_(*WorkerServer::Start("127.0.0.1:0", service_)),
        client_(WorkerClient::Create(server_->address())) {
    gpu_.Allocate("source", ".aabbcc.");
    gpu_.Allocate("shard", "..??????");
    Open(Trainer());
  }

  void Open(const v1::TrainerGpu& trainer) {
    v1::OpenSessionRequest request;
    *request.mutable_gpu() = trainer;
    auto session = client_.OpenSession(request);
    ASSERT_THAT(session, IsOk());
    session_ = *std::move(session);
    source_id_ = client_.RegisterRegion(Registration("source", 1))->region_id();
    shard_id_ = client_.RegisterRegion(Registration("shard", 2))->region_id();
  }

  v1::RegisterRegionRequest Registration(const std::string& name,
                                         int64_t offset) const {
    v1::RegisterRegionRequest request;
    request.set_session_id(session_->id());
    request.set_gpu_uuid("GPU-fake");
    request.set_memory_handle(FakeRegionDevice::Handle(name));
    request.set_allocation_bytes(8);
    request.set_offset_bytes(offset);
    request.set_size_bytes(6);
    return request;
  }

  static void SetRange(v1::Tensor* tensor, int64_t id, int64_t offset,
                       int64_t size) {
    tensor->mutable_region()->set_id(id);
    tensor->mutable_region()->set_offset_bytes(offset);
    tensor->mutable_region()->set_size_bytes(size);
  }

  v1::CopyOperation Operation() const {
    v1::CopyOperation operation;
    *operation.mutable_table() = Table();
    operation.set_row_bytes(2);
    operation.set_fill_value("-");
    SetRange(operation.add_sources(), source_id_, 0, 6);
    SetRange(operation.mutable_destination(), shard_id_, 0, 6);
    return operation;
  }

  absl::StatusOr<v1::RunCopiesResponse> Run(
      const std::vector<v1::CopyOperation>& operations) const {
    v1::RunCopiesRequest request;
    request.set_session_id(session_->id());
    for (const v1::CopyOperation& operation : operations) {
      *request.add_operations() = operation;
    }
    return client_.RunCopies(request);
  }

  absl::Status Unregister(int64_t id) const {
    v1::UnregisterRegionRequest request;
    request.set_session_id(session_->id());
    request.set_region_id(id);
    return client_.UnregisterRegion(request).status();
  }

  HostDevice host_;
  FakeRegionDevice gpu_;
  CliqueTable cliques_;
  WorkerService service_;
  std::unique_ptr<WorkerServer> server_;
  WorkerClient client_;
  std::unique_ptr<WorkerSession> session_;
  int64_t source_id_ = 0, shard_id_ = 0;
};

}  // namespace shardwright

#endif  // WORKER_RPC_REGIONS_FIXTURE_H_
