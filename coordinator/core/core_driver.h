// Drives a CoordinatorCore the way a server would, on time made by hand: for
// the tests of the core.

#ifndef COORDINATOR_CORE_CORE_DRIVER_H_
#define COORDINATOR_CORE_CORE_DRIVER_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/storage/memory_state_store.h"

namespace shardwright {

// Keeps entries in memory, and refuses to write while `full`.
class FillableStore final : public StateStore {
 public:
  absl::StatusOr<Entries> Load() override { return store_.Load(); }
  absl::Status Commit(const Entries& entries) override;

  bool full = false;
  int commit_count = 0;

 private:
  MemoryStateStore store_;
};

// What a parked call has been told.
struct TestStream {
  std::vector<v1::SessionResponse> news;
  std::vector<v1::FormCommunicatorsResponse> events;
  std::vector<v1::WaitAtBarrierResponse> progress;
  std::vector<v1::GetLayoutResponse> layouts;
  std::optional<absl::Status> end;
};

// One process that is a member: what it puts into its requests.
struct TestMember {
  Rank rank = 0;
  uint64_t incarnation = 0;
  v1::MemberKind kind = v1::WORKER;
  int64_t generation = 1;
  std::string job = "job";

  v1::Caller Caller() const;
};

class CoreDriver {
 public:
  // Starts a core on an empty store, with leases of 10 s.
  CoreDriver();

  // Starts another core on the same store: a restart of the coordinator. All
  // streams are gone.
  void Restart();

  CoordinatorCore& core() { return *core_; }
  FillableStore& store() { return store_; }
  absl::Time now() const { return now_; }

  // Lets time pass, and everything happen in it when it is due.
  void Pass(absl::Duration duration);

  // Lets time pass in which nobody looks what is due.
  void Skip(absl::Duration duration) { now_ += duration; }

  // What a stream has been told so far. Never told: empty.
  TestStream& stream(StreamId id) { return streams_[id]; }

  // A job of one language module with the sizes given, and no other.
  static v1::Layout LanguageOnly(int64_t tp, int64_t dp = 1,
                                 const std::string& job = "job");
  absl::StatusOr<v1::ApplyLayoutResponse> Apply(const v1::Layout& layout);

  absl::StatusOr<v1::RegisterResponse> Register(const TestMember& member,
                                                const std::string& host = "");
  absl::StatusOr<v1::RegisterResponse> Register(const TestMember& member,
                                                v1::MemberFacts facts);
  // Registers a new process with its own incarnation; must succeed.
  TestMember Join(Rank rank, v1::MemberKind kind = v1::WORKER);
  absl::Status Leave(const TestMember& member);

  absl::Status Watch(StreamId stream, int64_t revision = 0,
                     const std::string& job = "");

  // The watcher has read all.
  void WatchOn(StreamId stream);

  // Announces a session that has not spoken yet.
  void OpenSession(StreamId stream);

  // Opens or continues a session.
  absl::Status Session(StreamId stream, const TestMember& member,
                       int64_t revision = 0, const std::string& phase = "");

  struct FormOptions {
    std::vector<std::string> kinds = {"tp"};
    absl::Duration timeout = absl::Minutes(1);
    v1::CommBackend backend = v1::GLOO;
  };
  absl::Status Form(StreamId stream, const TestMember& member,
                    const FormOptions& options);
  absl::Status Form(StreamId stream, const TestMember& member) {
    return Form(stream, member, FormOptions());
  }
  absl::Status Publish(const TestMember& member, const v1::Attempt& attempt,
                       int32_t index, const std::string& value);
  absl::Status Report(const TestMember& member, const v1::Attempt& attempt,
                      bool ok, const std::string& message = "");

  absl::Status Wait(StreamId stream, const TestMember& member, int64_t sequence,
                    absl::Duration timeout = absl::Minutes(1),
                    const std::string& scope = "", uint64_t digest = 0,
                    const std::string& name = "step");

  void CloseStream(StreamId stream);

  // The last event of a stream, progress aside, which must be of that type.
  v1::Attempt LastGo(StreamId stream);
  v1::Attempt LastActive(StreamId stream);
  v1::AttemptAborted LastAborted(StreamId stream);

 private:
  void Take(Effects effects);
  const v1::FormCommunicatorsResponse& LastEvent(StreamId stream);

  FillableStore store_;
  absl::Time now_ = absl::FromUnixSeconds(1700000000);
  std::unique_ptr<CoordinatorCore> core_;
  std::map<StreamId, TestStream> streams_;
  uint64_t last_incarnation_ = 0;
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_CORE_DRIVER_H_
