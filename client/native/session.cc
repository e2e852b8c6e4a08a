#include "client/native/session.h"

#include <deque>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/native/call.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {

v1::Tensor ToProto(const sw_tensor& tensor) {
  v1::Tensor message;
  message.mutable_segment()->set_index(tensor.segment);
  message.mutable_segment()->set_offset_bytes(tensor.offset_bytes);
  message.mutable_segment()->set_size_bytes(tensor.size_bytes);
  return message;
}

v1::Tensor ToProto(const sw_region_tensor& tensor) {
  v1::Tensor message;
  if (tensor.size_bytes == 0) {
    message.set_inline_data("");
    return message;
  }
  message.mutable_region()->set_id(tensor.region);
  message.mutable_region()->set_offset_bytes(tensor.offset_bytes);
  message.mutable_region()->set_size_bytes(tensor.size_bytes);
  return message;
}

namespace {

constexpr int64_t kSegmentsMax = 64;
constexpr int64_t kOperationsMax = 4096;

// Events of sessions that have ended, by GPU. The worker closes its side a
// little later than we ours, and an event must outlive that: the oldest is used
// again only when there are many. Never destroyed: a program may end while its
// threads run.
struct OldEvents {
  static constexpr size_t kCountMin = 8;

  Mutex mutex;
  std::map<int, std::deque<std::unique_ptr<SharedEvent>>> by_ordinal
      ABSL_GUARDED_BY(mutex);
};

OldEvents& TheOldEvents() {
  static OldEvents& events = *new OldEvents;
  return events;
}

absl::StatusOr<std::unique_ptr<SharedEvent>> TakeEvent(int ordinal) {
  OldEvents& old = TheOldEvents();
  {
    const MutexLock lock(old.mutex);
    auto& events = old.by_ordinal[ordinal];
    if (events.size() > OldEvents::kCountMin) {
      std::unique_ptr<SharedEvent> event = std::move(events.front());
      events.pop_front();
      return event;
    }
  }
  return SharedEvent::Create(ordinal);
}

void GiveEvent(int ordinal, std::unique_ptr<SharedEvent> event) {
  OldEvents& old = TheOldEvents();
  const MutexLock lock(old.mutex);
  old.by_ordinal[ordinal].push_back(std::move(event));
}

absl::Status SetFill(const sw_operation& in, v1::CopyOperation& operation) {
  RETURN_IF_ERROR(
      CheckArray("operation.fill bytes", in.fill, in.fill_bytes, in.row_bytes));
  if (in.fill_bytes > 0) {
    operation.set_fill_value(in.fill, static_cast<size_t>(in.fill_bytes));
  }
  return absl::OkStatus();
}

// One element, whose size the worker needs for the addresses too.
absl::Status SetFill(const sw_region_operation& in,
                     v1::CopyOperation& operation) {
  if (in.element_bytes < 1 || in.element_bytes > 16) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR",
                 absl::StrCat("operation.element_bytes is ", in.element_bytes,
                              ", must be 1 to 16"));
  }
  operation.set_element_bytes(in.element_bytes);
  if (in.fill != nullptr) {
    operation.set_fill_value(in.fill, static_cast<size_t>(in.element_bytes));
  }
  return absl::OkStatus();
}

// What the worker keeps a plan's table by.
v1::PlanTable NameOf(const sw_plan& plan, sw_table_id table) {
  v1::PlanTable name;
  name.set_digest(plan.plan.digest);
  name.set_rank(plan.plan.rank);
  name.set_kind(table == SW_LABELS ? v1::PlanTable::LABELS
                                   : v1::PlanTable::EMBEDDINGS);
  return name;
}

// `Operation` is on segments or on regions.
template <typename Operation>
absl::Status AddOperation(const Operation& in, Copies& copies) {
  RETURN_IF_ERROR(CheckLive("operation.plan", in.plan));
  RETURN_IF_ERROR(CheckArray("operation.sources", in.sources, in.source_count,
                             CopyTable::kSourcesMax));
  ASSIGN_OR_RETURN(const sw_plan::Table* table, in.plan->Find(in.table));
  v1::CopyOperation& operation = *copies.request.add_operations();
  RETURN_IF_ERROR(SetFill(in, operation));
  *operation.mutable_plan_table() = NameOf(*in.plan, in.table);
  for (int64_t k = 0; k < in.source_count; ++k) {
    *operation.add_sources() = ToProto(in.sources[k]);
  }
  *operation.mutable_destination() = ToProto(in.destination);
  operation.set_row_bytes(in.row_bytes);
  operation.set_adjoint(in.adjoint != 0);
  copies.tables.push_back(table->copies);
  return absl::OkStatus();
}

template <typename Operation>
absl::StatusOr<Copies> AllCopiesFrom(const Operation* operations,
                                     int64_t count) {
  RETURN_IF_ERROR(CheckArray("operations", operations, count, kOperationsMax));
  Copies copies;
  for (int64_t i = 0; i < count; ++i) {
    RETURN_IF_ERROR(AddOperation(operations[i], copies));
  }
  return copies;
}

}  // namespace

bool SentTables::Has(const v1::PlanTable& name) const {
  const MutexLock lock(mutex_);
  return names_.count({name.digest(), name.rank(), name.kind()}) > 0;
}

void SentTables::Add(const v1::PlanTable& name) {
  const MutexLock lock(mutex_);
  if (names_.size() >= kNamesMax) names_.clear();
  names_.insert({name.digest(), name.rank(), name.kind()});
}

StreamOrder::~StreamOrder() {
  if (ready_ != nullptr) GiveEvent(ordinal_, std::move(ready_));
}

std::string StreamOrder::MakeReadyEvent() {
  absl::StatusOr<std::unique_ptr<SharedEvent>> event = TakeEvent(ordinal_);
  if (!event.ok()) return "";
  ready_ = *std::move(event);
  return ready_->handle();
}

void StreamOrder::Accept(const v1::GpuSession& agreement) {
  if (agreement.order() == v1::GpuSession::EVENTS) return;
  if (ready_ != nullptr) GiveEvent(ordinal_, std::move(ready_));
}

absl::Status StreamOrder::Before(GpuStream stream) {
  if (ready_ == nullptr) return SynchronizeStream(ordinal_, stream);
  // As it was last recorded, the event is over: it says the same, at less cost.
  ASSIGN_OR_RETURN(const bool idle, IsStreamIdle(ordinal_, stream));
  if (idle) return absl::OkStatus();
  return ready_->Record(stream);
}

absl::Status CheckHasGpu(const sw_session* session) {
  RETURN_IF_ERROR(CheckLive("session", session));
  if (session->order != nullptr) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_REGION",
               "the session was opened without a GPU: use "
               "sw_session_open_gpu()");
}

absl::StatusOr<v1::OpenSessionRequest> SegmentsFrom(const sw_segment* segments,
                                                    int64_t segment_count) {
  RETURN_IF_ERROR(
      CheckArray("segments", segments, segment_count, kSegmentsMax));
  v1::OpenSessionRequest request;
  for (int64_t i = 0; i < segment_count; ++i) {
    RETURN_IF_ERROR(CheckNotNull({{"segment.name", segments[i].name}}));
    v1::SharedMemory& segment = *request.add_segments();
    segment.set_name(segments[i].name);
    segment.set_size_bytes(segments[i].size_bytes);
  }
  return request;
}

absl::StatusOr<Copies> CopiesFrom(const sw_operation* operations,
                                  int64_t count) {
  return AllCopiesFrom(operations, count);
}

absl::StatusOr<Copies> CopiesFrom(const sw_region_operation* operations,
                                  int64_t count) {
  return AllCopiesFrom(operations, count);
}

}  // namespace shardwright

absl::StatusOr<shardwright::v1::RunCopiesResponse> sw_session::Run(
    shardwright::Copies copies) const {
  shardwright::v1::RunCopiesRequest& request = copies.request;
  request.set_session_id(session->id());
  const auto add_tables = [&](bool all) {
    for (int i = 0; i < request.operations_size(); ++i) {
      shardwright::v1::CopyOperation& operation =
          *request.mutable_operations(i);
      if (!operation.has_table() &&
          (all || !sent.Has(operation.plan_table()))) {
        *operation.mutable_table() = shardwright::ToProto(*copies.tables[i]);
      }
    }
  };
  add_tables(/*all=*/false);
  absl::StatusOr<shardwright::v1::RunCopiesResponse> response =
      client.RunCopies(request);
  if (shardwright::ReasonOf(response.status()) == "PLAN_UNKNOWN") {
    // It has forgotten some: nothing has moved yet.
    add_tables(/*all=*/true);
    response = client.RunCopies(request);
  }
  if (!response.ok()) return response;
  for (const auto& operation : request.operations()) {
    if (operation.has_table()) sent.Add(operation.plan_table());
  }
  return response;
}
