#include "worker/rpc/region_table.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/sync/spin.h"
#include "spdlog/spdlog.h"
#include "worker/device/process_identity.h"

namespace shardwright {
namespace {

constexpr size_t kHandleBytes = 64;

// A launch takes no more, and finding out what depends on what stays cheap.
constexpr size_t kTogetherMax = 8;

// For the trainer's stream, and then for the copies. Together less than what
// clients wait for an answer.
constexpr absl::Duration kRunWait = absl::Seconds(25);

// A copy takes microseconds: what is asked for each time is worth a busy core
// for so long, at first without a call of the kernel. Then there is a pause
// between two questions.
constexpr absl::Duration kBusy = absl::Microseconds(50);
constexpr absl::Duration kSpin = absl::Milliseconds(5);
constexpr absl::Duration kPause = absl::Microseconds(200);

absl::Status InvalidRegion(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_REGION", message);
}

absl::Status InvalidTensor(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR", message);
}

ProcessIdentity IdentityFrom(const v1::ProcessIdentity& message) {
  return {message.pid(), message.pid_namespace(), message.boot_id(),
          message.shm_device()};
}

absl::Status CheckGpu(const RegionDevice* device,
                      const v1::TrainerGpu& trainer) {
  if (device == nullptr) {
    return Error(absl::StatusCode::kFailedPrecondition, "GPU_NOT_SERVED",
                 "this worker copies host memory only: start it with --device "
                 "cuda");
  }
  if (trainer.gpu_uuid() != device->uuid()) {
    return Error(
        absl::StatusCode::kFailedPrecondition, "GPU_NOT_SERVED",
        absl::StrCat("gpu.gpu_uuid is \"", trainer.gpu_uuid().substr(0, 64),
                     "\", but this worker serves ", device->uuid()));
  }
  return CheckSharesMemory(OwnProcessIdentity(),
                           IdentityFrom(trainer.process()));
}

v1::GpuSession Agree(const v1::TrainerGpu& trainer, RegionStream& stream) {
  v1::GpuSession agreement;
  agreement.set_order(v1::GpuSession::HOST);
  if (trainer.ready_event().empty()) {
    agreement.set_order_reason("the trainer gave no event");
    return agreement;
  }
  const std::string reason =
      WhyNoSharedEvents(OwnProcessIdentity(), IdentityFrom(trainer.process()));
  if (!reason.empty()) {
    agreement.set_order_reason(reason);
    return agreement;
  }
  if (trainer.ready_event().size() != kHandleBytes) {
    agreement.set_order_reason(
        absl::StrCat("gpu.ready_event has ", trainer.ready_event().size(),
                     " bytes, but a handle has ", kHandleBytes));
    return agreement;
  }
  const absl::Status followed = stream.Follow(trainer.ready_event());
  if (!followed.ok()) {
    agreement.set_order_reason(CutText(followed.message(), 256));
    return agreement;
  }
  agreement.set_order(v1::GpuSession::EVENTS);
  agreement.set_order_reason("both processes share CUDA events");
  return agreement;
}

bool Overlap(ConstBytes a, ConstBytes b) {
  return !a.empty() && !b.empty() && a.data() < b.data() + b.size() &&
         b.data() < a.data() + a.size();
}

// Whether what one writes, the other reads or writes.
bool Writes(const RegionCopy& writer, const RegionCopy& other) {
  const auto touches = [&other](Bytes written) {
    return Overlap(written, other.destination) ||
           std::any_of(other.sources.begin(), other.sources.end(),
                       [&](Bytes bytes) { return Overlap(written, bytes); });
  };
  if (writer.direction == Direction::kForward) {
    return touches(writer.destination);
  }
  return std::any_of(writer.sources.begin(), writer.sources.end(), touches);
}

// How many copies of the front do not depend on one another.
size_t CountIndependent(absl::Span<const RegionCopy> copies) {
  const size_t count_max = std::min(copies.size(), kTogetherMax);
  for (size_t i = 1; i < count_max; ++i) {
    for (size_t k = 0; k < i; ++k) {
      if (Writes(copies[i], copies[k]) || Writes(copies[k], copies[i])) {
        return i;
      }
    }
  }
  return count_max;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RegionTable>> RegionTable::Create(
    RegionDevice* device, const v1::TrainerGpu& trainer) {
  RETURN_IF_ERROR(CheckGpu(device, trainer));
  ASSIGN_OR_RETURN(std::unique_ptr<RegionStream> stream, device->NewStream());
  v1::GpuSession agreement = Agree(trainer, *stream);
  auto table = std::unique_ptr<RegionTable>(
      new RegionTable(device->uuid(), std::move(stream)));
  table->agreement_ = std::move(agreement);
  return table;
}

RegionTable::~RegionTable() {
  const absl::StatusOr<bool> idle =
      WaitUntil([this] { return stream_->IsIdle(); }, kEndWait);
  if (idle.ok() && !*idle) {
    // To unmap what a kernel may still write to would break all sessions.
    spdlog::error("event=stream_abandoned regions={}", regions_.size());
    (void)stream_.release();
  }
}

absl::StatusOr<bool> RegionTable::WaitUntil(
    const std::function<absl::StatusOr<bool>()>& holds,
    absl::Duration timeout) {
  const absl::Time begin = absl::Now();
  while (true) {
    ASSIGN_OR_RETURN(const bool held, holds());
    const absl::Duration waited = absl::Now() - begin;
    if (held || waited > timeout) return held;
    if (waited < kBusy) {
      PauseCore();
    } else if (waited < kSpin) {
      std::this_thread::yield();
    } else {
      absl::SleepFor(kPause);
    }
  }
}

absl::StatusOr<bool> RegionTable::Await(
    const std::function<absl::StatusOr<bool>()>& holds, const Caller& caller) {
  ASSIGN_OR_RETURN(const bool held, WaitUntil(
                                        [&]() -> absl::StatusOr<bool> {
                                          if (ended_ || caller.has_gone())
                                            return true;
                                          return holds();
                                        },
                                        kRunWait));
  if (ended_) {
    return Error(absl::StatusCode::kNotFound, "SESSION_NOT_FOUND",
                 "the session has ended meanwhile");
  }
  RETURN_IF_ERROR(caller.status());
  return held;
}

absl::StatusOr<RegionTable::Region> RegionTable::Map(
    const v1::RegisterRegionRequest& request) {
  const int64_t allocation = request.allocation_bytes();
  const int64_t offset = request.offset_bytes();
  const int64_t size = request.size_bytes();
  if (request.gpu_uuid() != gpu_uuid_) {
    return InvalidRegion(
        absl::StrCat("gpu_uuid is \"", request.gpu_uuid().substr(0, 64),
                     "\", but this worker serves ", gpu_uuid_));
  }
  if (request.memory_handle().size() != kHandleBytes) {
    return InvalidRegion(absl::StrCat("memory_handle has ",
                                      request.memory_handle().size(),
                                      " bytes, but must have ", kHandleBytes));
  }
  if (size < 1) {
    return InvalidRegion(
        absl::StrCat("size_bytes is ", size, ", but must be at least 1"));
  }
  if (offset < 0 || offset > allocation || size > allocation - offset) {
    return InvalidRegion(
        absl::StrCat("offset_bytes is ", offset, " and size_bytes ", size,
                     ", but allocation_bytes is ", allocation));
  }
  ASSIGN_OR_RETURN(const Bytes mapping, stream_->Map(request.memory_handle()));
  if (static_cast<int64_t>(mapping.size()) < allocation) {
    (void)stream_->Unmap(mapping);
    return InvalidRegion(absl::StrCat("allocation_bytes is ", allocation,
                                      ", but the handle's allocation has ",
                                      mapping.size(), " bytes"));
  }
  return Region{mapping, mapping.subspan(offset, size)};
}

absl::StatusOr<int64_t> RegionTable::Register(
    const v1::RegisterRegionRequest& request) {
  const MutexLock starting(starting_);
  {
    const MutexLock lock(mutex_);
    if (regions_.size() >= kRegionsMax) {
      return Error(absl::StatusCode::kResourceExhausted, "TOO_MANY_REGIONS",
                   absl::StrCat("the session has ", kRegionsMax,
                                " regions; unregister one, or register a "
                                "larger allocation as one"));
    }
  }
  ASSIGN_OR_RETURN(const Region region, Map(request));
  const MutexLock lock(mutex_);
  const int64_t id = next_id_++;
  regions_.emplace(id, region);
  return id;
}

absl::Status RegionTable::Unregister(int64_t id) {
  Region region;
  {
    // What has found the region has been started by then.
    const MutexLock starting(starting_);
    const MutexLock lock(mutex_);
    const auto found = regions_.find(id);
    if (found == regions_.end()) {
      return Error(absl::StatusCode::kNotFound, "REGION_NOT_FOUND",
                   absl::StrCat("region_id is ", id,
                                ", but the session has no such region"));
    }
    region = found->second;
    regions_.erase(found);
  }
  const auto idle_now = [this]() -> absl::StatusOr<bool> {
    if (mapped_.use_count() > 1) return false;
    return stream_->IsIdle();
  };
  ASSIGN_OR_RETURN(const bool idle, WaitUntil(idle_now, kIdleWait));
  if (!idle) {
    return Error(absl::StatusCode::kDeadlineExceeded, "REGION_BUSY",
                 absl::StrCat("region ", id, " is still in use after ",
                              absl::FormatDuration(kIdleWait),
                              "; it is unmapped when the session ends"));
  }
  const MutexLock starting(starting_);
  return stream_->Unmap(region.mapping);
}

std::shared_ptr<void> RegionTable::KeepMapped() {
  const MutexLock starting(starting_);
  return mapped_;
}

absl::Status RegionTable::Run(const std::function<absl::Status()>& body,
                              const Caller& caller) {
  ASSIGN_OR_RETURN(const bool ready,
                   Await([this] { return stream_->IsReady(); }, caller));
  if (!ready) {
    return Error(
        absl::StatusCode::kDeadlineExceeded, "STREAM_NOT_READY",
        absl::StrCat("the trainer's stream has not got there after ",
                     absl::FormatDuration(kRunWait), "; nothing was started"));
  }
  absl::Status status;
  {
    const MutexLock starting(starting_);
    status = body();
  }
  // Also after a failure, and for a caller that has left: what was started
  // still runs.
  const auto is_idle = [this] { return stream_->IsIdle(); };
  const absl::StatusOr<bool> idle = Await(is_idle, Caller());
  if (!idle.ok()) {
    // A session that has ended: what its copies use is somebody else's next.
    (void)WaitUntil(is_idle, kEndWait);
    return idle.status();
  }
  if (!*idle && status.ok()) {
    return Error(absl::StatusCode::kDataLoss, "DEVICE_FAILED",
                 absl::StrCat("the copies still run after ",
                              absl::FormatDuration(kRunWait)));
  }
  return status;
}

absl::StatusOr<Bytes> RegionTable::Find(const std::string& name,
                                        const v1::RegionRange& range) const {
  const MutexLock lock(mutex_);
  const auto found = regions_.find(range.id());
  if (found == regions_.end()) {
    return InvalidTensor(absl::StrCat(name, " is in region ", range.id(),
                                      ", but the session has no such region"));
  }
  const Bytes region = found->second.bytes;
  const int64_t region_bytes = static_cast<int64_t>(region.size());
  if (range.offset_bytes() < 0 || range.size_bytes() < 0 ||
      range.offset_bytes() > region_bytes ||
      range.size_bytes() > region_bytes - range.offset_bytes()) {
    return InvalidTensor(absl::StrCat(name, " has ", range.size_bytes(),
                                      " bytes at offset ", range.offset_bytes(),
                                      ", but region ", range.id(), " has ",
                                      region_bytes, " bytes"));
  }
  return region.subspan(range.offset_bytes(), range.size_bytes());
}

absl::Status RegionTable::Start(absl::Span<const RegionCopy> copies) {
  while (!copies.empty()) {
    const size_t count = CountIndependent(copies);
    RETURN_IF_ERROR(stream_->Start(copies.subspan(0, count)));
    copies.remove_prefix(count);
  }
  return absl::OkStatus();
}

void RegionTable::Describe(v1::SessionDescription& description) const {
  const MutexLock lock(mutex_);
  int64_t bytes = 0;
  for (const auto& [id, region] : regions_) bytes += region.bytes.size();
  description.set_region_count(static_cast<int>(regions_.size()));
  description.set_region_bytes(bytes);
  description.set_order(agreement_.order() == v1::GpuSession::EVENTS ? "events"
                                                                     : "host");
  description.set_order_reason(agreement_.order_reason());
}

}  // namespace shardwright
