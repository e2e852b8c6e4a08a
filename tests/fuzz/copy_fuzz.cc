// WorkerService: copy tables and tensors on the wire -> bytes that move, in
// shared memory, in messages and in regions of a device.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "proto/plan/codec.h"
#include "shardwright/v1/worker.pb.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/promise.h"
#include "tests/property/plan_promises.h"
#include "worker/comm/loopback_communicator.h"
#include "worker/device/host_device.h"
#include "worker/device/process_identity.h"
#include "worker/exec/gather.h"
#include "worker/rpc/copy_operation.h"
#include "worker/rpc/fake_region_device.h"
#include "worker/rpc/plan_tables.h"
#include "worker/rpc/region_table.h"
#include "worker/rpc/session_table.h"

namespace shardwright {
namespace {

constexpr int64_t kSegmentBytes = 1024;
constexpr int64_t kRowsMax = 4096;  // Of tables that are checked row by row.

// One session with one segment, for the life of the process.
std::shared_ptr<Session> TheSession() {
  static const auto* const session = new std::shared_ptr<Session>([] {
    const std::string name = absl::StrCat("/shardwright-fuzz-", getpid());
    const int file = shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
    Promise(file >= 0 && ftruncate(file, kSegmentBytes) == 0, "shared memory");
    close(file);
    static auto* const sessions = new SessionTable();
    v1::OpenSessionRequest request;
    request.add_segments()->set_name(name);
    request.mutable_segments(0)->set_size_bytes(kSegmentBytes);
    const absl::StatusOr<std::string> id = sessions->Open(request);
    Promise(id.status());
    std::shared_ptr<Session> found = *sessions->Find(*id);
    sessions->Close(*id);  // Takes the name away; the memory stays.
    return found;
  }());
  return *session;
}

Bytes Segment() { return TheSession()->segments()[0].bytes(); }

void CheckAccepted(const CopyOperation& operation) {
  const CopyTable& table = operation.table();
  int64_t rows = table.destination_rows();
  for (int64_t n : table.source_rows()) rows = std::max(rows, n);
  if (rows <= kRowsMax) Promise(CheckTable(table, 3));
}

// A trainer of another process of this machine.
v1::TrainerGpu Trainer() {
  const ProcessIdentity own = OwnProcessIdentity();
  v1::TrainerGpu trainer;
  trainer.set_gpu_uuid("GPU-fake");
  trainer.mutable_process()->set_pid(own.pid + 1);
  trainer.mutable_process()->set_boot_id(own.boot_id);
  return trainer;
}

void RunOne(const CopyOperation& operation, bool adjoint, Session& session) {
  HostDevice device;
  if (operation.in_regions()) {
    Promise(session.regions()->Start({operation.AsRegionCopy()}));
  } else if (adjoint) {
    Promise(device.RunAdjoint(operation.table(), operation.row_bytes(),
                              operation.destination(), operation.sources()));
  } else {
    Promise(
        device.RunForward(operation.table(), operation.row_bytes(),
                          std::vector<ConstBytes>(operation.sources().begin(),
                                                  operation.sources().end()),
                          operation.destination(), operation.fill_value()));
  }
}

// As WorkerService does it: all are decoded before the first byte moves.
void RunCopies(const v1::RunCopiesRequest& request,
               const std::shared_ptr<Session>& session) {
  const std::string before(Segment().data(), Segment().size());
  std::vector<CopyOperation> operations;
  for (const v1::CopyOperation& message : request.operations()) {
    absl::StatusOr<CopyOperation> operation = CopyOperation::Create(
        message, session,
        message.adjoint() ? CopyOutputs::kSources : CopyOutputs::kDestination);
    if (!operation.ok()) {
      PromiseOneError(operation.status());
      Promise(before == absl::string_view(Segment().data(), Segment().size()),
              "what is refused moves no byte");
      return;
    }
    CheckAccepted(*operation);
    operations.push_back(*std::move(operation));
  }
  for (size_t i = 0; i < operations.size(); ++i) {
    CopyOperation& operation = operations[i];
    const bool adjoint = request.operations(static_cast<int>(i)).adjoint();
    RunOne(operation, adjoint, *session);
    Promise(operation.copied_bytes() >= 0, "bytes that moved are counted");
    const size_t outputs = adjoint ? operation.sources().size() : 1;
    Promise(operation.TakeInlineOutputs().size() == outputs,
            "every output is answered");
  }
}

// Regions as a trainer registers them, on a device that is host memory, and
// copies between them.
void RunInRegions(Input& input) {
  FakeRegionDevice device;
  device.Allocate("a", std::string(256, 'x'));
  auto regions = RegionTable::Create(&device, Trainer());
  Promise(regions.status());
  const auto session = std::make_shared<Session>(std::vector<SharedMemory>(),
                                                 *std::move(regions));
  for (int i = input.Index(4); i > 0; --i) {
    v1::RegisterRegionRequest request;
    if (!input.Parse(request)) return;
    const absl::StatusOr<int64_t> id = session->regions()->Register(request);
    if (!id.ok()) PromiseOneError(id.status());
  }
  v1::RunCopiesRequest request;
  if (!input.Parse(request)) return;
  Promise(session->regions()->Run([&] {
    RunCopies(request, session);
    return absl::OkStatus();
  }));
  Promise(session->tables().count() <= PlanTables::kTablesMax,
          "tables are bounded");
}

// A clique of one: what the member holds comes back, and nothing else.
void GatherShards(Input& input) {
  v1::GatherShardsRequest request;
  if (!input.Parse(request)) return;
  if (UsesRegions(request.operation())) return;
  const absl::StatusOr<CopyOperation> operation = CopyOperation::Create(
      request.operation(), TheSession(), CopyOutputs::kSources);
  if (!operation.ok()) return PromiseOneError(operation.status());
  LoopbackFactory factory;
  CliqueAttempt attempt;
  attempt.clique = "language/tp_cp/0";
  attempt.ranks = {4};
  auto communicator = (*factory.Begin(attempt))->Connect({});
  Promise(communicator.status());
  const auto restored = shardwright::GatherShards(
      **communicator,
      {request.digest(), operation->table(), operation->row_bytes(),
       operation->destination(), operation->sources()});
  Promise(restored.status());
  const int64_t rows =
      std::accumulate(restored->begin(), restored->end(), int64_t{0});
  Promise(rows * operation->row_bytes() == operation->copied_bytes(),
          "every row that is held comes back");
}

// The codec alone, with tables larger than any tensor that came along.
void ReadTable(Input& input) {
  v1::CopyTable message;
  if (!input.Parse(message)) return;
  const absl::StatusOr<CopyTable> table = CopyTableFromProto(message);
  if (!table.ok()) return PromiseOneError(table.status());
  const absl::StatusOr<CopyTable> again = CopyTableFromProto(ToProto(*table));
  Promise(again.status());
  Promise(*again == *table, "a table is the same after the wire");
}

}  // namespace
}  // namespace shardwright

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shardwright;
  Input input(data, size);
  // Whatever an earlier input left there.
  std::fill(Segment().begin(), Segment().end(), 'x');
  while (!input.empty()) {
    switch (input.Index(4)) {
      case 0: {
        v1::RunCopiesRequest request;
        if (input.Parse(request)) RunCopies(request, TheSession());
        break;
      }
      case 3:
        RunInRegions(input);
        break;
      case 1:
        GatherShards(input);
        break;
      default:
        ReadTable(input);
    }
  }
  return 0;
}
