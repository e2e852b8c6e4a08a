// WorkerService as trainers see it: through its client, over real gRPC, with
// real shared memory. What the executor and the gathering do is tested beside
// them.

#include "worker/rpc/worker_service.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cc/worker_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/agent/clique_table.h"
#include "worker/comm/loopback_communicator.h"
#include "worker/device/host_device.h"
#include "worker/rpc/copy_operation.h"
#include "worker/rpc/loopback_clique.h"
#include "worker/rpc/server.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A shared memory object as a trainer makes it. Unlinked at the end, if the
// worker has not done so.
class Segment {
 public:
  explicit Segment(int64_t size, mode_t mode = 0600)
      : name_(absl::StrCat("/shardwright-test-", getpid(), "-", ++made)) {
    const int fd = shm_open(name_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    EXPECT_GE(fd, 0);
    EXPECT_EQ(ftruncate(fd, size), 0);
    EXPECT_EQ(fchmod(fd, mode), 0);
    bytes_ = {static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                      MAP_SHARED, fd, 0)),
              static_cast<size_t>(size)};
    close(fd);
  }
  ~Segment() {
    munmap(bytes_.data(), bytes_.size());
    shm_unlink(name_.c_str());
  }

  const std::string& name() const { return name_; }
  absl::Span<char> bytes() { return bytes_; }
  std::string text() const { return {bytes_.begin(), bytes_.end()}; }
  void Write(const std::string& text) {
    std::copy(text.begin(), text.end(), bytes_.begin());
  }
  bool linked() const {
    const int fd = shm_open(name_.c_str(), O_RDONLY, 0);
    if (fd >= 0) close(fd);
    return fd >= 0;
  }

 private:
  static inline int made = 0;
  std::string name_;
  absl::Span<char> bytes_;
};

// One worker: its service, server and client.
struct Worker {
  Worker()
      : service(device, cliques, [] { return v1::WorkerDescription(); }),
        server(*WorkerServer::Start("127.0.0.1:0", service)),
        client(WorkerClient::Create(server->address())) {}

  HostDevice device;
  CliqueTable cliques;
  WorkerService service;
  std::unique_ptr<WorkerServer> server;
  WorkerClient client;
};

v1::OpenSessionRequest Opening(const std::vector<const Segment*>& segments,
                               int64_t size) {
  v1::OpenSessionRequest request;
  for (const Segment* segment : segments) {
    v1::SharedMemory& entry = *request.add_segments();
    entry.set_name(segment->name());
    entry.set_size_bytes(size);
  }
  return request;
}

void SetRange(v1::Tensor* tensor, int index, int64_t offset, int64_t size) {
  tensor->mutable_segment()->set_index(index);
  tensor->mutable_segment()->set_offset_bytes(offset);
  tensor->mutable_segment()->set_size_bytes(size);
}

// Rows of 2 bytes: row 1 of a source of 3, one filled row, row 0.
v1::CopyOperation Operation() {
  v1::CopyOperation operation;
  v1::CopyTable& table = *operation.mutable_table();
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
  operation.set_row_bytes(2);
  return operation;
}

v1::CopyOperation InlineOperation() {
  v1::CopyOperation operation = Operation();
  operation.add_sources()->set_inline_data("aabbcc");
  operation.mutable_destination()->set_inline_data("??????");
  operation.set_fill_value("-");
  return operation;
}

TEST(WorkerServiceTest, InlineTensorsComeBackInTheAnswer) {
  Worker worker;
  v1::RunCopiesRequest request;
  *request.add_operations() = InlineOperation();
  v1::CopyOperation& adjoint = *request.add_operations() = InlineOperation();
  adjoint.set_adjoint(true);
  adjoint.mutable_destination()->set_inline_data("xxyyzz");
  const auto response = worker.client.RunCopies(request);
  ASSERT_THAT(response, IsOk());
  EXPECT_THAT(response->outputs(0).tensors(), ElementsAre("bb--aa"));
  EXPECT_THAT(response->outputs(1).tensors(),
              ElementsAre(std::string("zzxx\0\0", 6)));
  EXPECT_EQ(response->copied_bytes(), 8);
  const auto description = worker.client.Describe();
  ASSERT_THAT(description, IsOk());
  EXPECT_EQ(description->copied_bytes(), 8);
}

TEST(WorkerServiceTest, CopiesBetweenSegmentsOfASession) {
  Worker worker;
  Segment source(8), destination(8);
  source.Write(".aabbcc.");
  destination.Write("........");
  const auto session =
      worker.client.OpenSession(Opening({&source, &destination}, 8));
  ASSERT_THAT(session, IsOk());
  v1::RunCopiesRequest request;
  request.set_session_id((*session)->id());
  v1::CopyOperation& operation = *request.add_operations() = Operation();
  SetRange(operation.add_sources(), 0, 1, 6);
  SetRange(operation.mutable_destination(), 1, 1, 6);
  const auto response = worker.client.RunCopies(request);
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(destination.text(), std::string(".bb\0\0aa.", 8));
  EXPECT_THAT(response->outputs(0).tensors(), ElementsAre(""));
}

TEST(WorkerServiceTest, ChecksEveryOperationBeforeTheFirstByteMoves) {
  Worker worker;
  Segment segment(12);
  segment.Write("aabbcc......");
  const auto session = worker.client.OpenSession(Opening({&segment}, 12));
  ASSERT_THAT(session, IsOk());
  v1::RunCopiesRequest request;
  request.set_session_id((*session)->id());
  v1::CopyOperation& good = *request.add_operations() = Operation();
  SetRange(good.add_sources(), 0, 0, 6);
  SetRange(good.mutable_destination(), 0, 6, 6);
  *request.add_operations() = good;
  request.mutable_operations(1)->set_row_bytes(3);
  EXPECT_THAT(
      worker.client.RunCopies(request),
      AllOf(HasReason("INVALID_TENSOR"),
            StatusIs(absl::StatusCode::kInvalidArgument,
                     HasSubstr("operations[1]: source 0 has 6 bytes"))));
  EXPECT_EQ(segment.text(), "aabbcc......");
}

struct BadOperation {
  std::string name;
  std::function<void(v1::CopyOperation&)> spoil;
  std::string reason;
  std::string complaint;
};

class BadOperationTest : public ::testing::TestWithParam<BadOperation> {};

TEST_P(BadOperationTest, IsRefusedAndTheMessageNamesWhich) {
  Worker worker;
  Segment segment(8);
  const auto session = worker.client.OpenSession(Opening({&segment}, 8));
  ASSERT_THAT(session, IsOk());
  v1::RunCopiesRequest request;
  request.set_session_id((*session)->id());
  *request.add_operations() = InlineOperation();
  GetParam().spoil(*request.mutable_operations(0));
  EXPECT_THAT(worker.client.RunCopies(request),
              AllOf(HasReason(GetParam().reason),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr(GetParam().complaint))));
}

INSTANTIATE_TEST_SUITE_P(
    OneMistakeEach, BadOperationTest,
    ::testing::ValuesIn(std::vector<BadOperation>{
        {"NoTable", [](auto& o) { o.mutable_table()->clear_entries(); },
         "INVALID_TABLE", ""},
        {"RowReadTwice",
         [](auto& o) {
           o.mutable_table()->mutable_entries(2)->set_source_row(1);
         },
         "INVALID_TABLE", ""},
        {"NoStorage", [](auto& o) { o.mutable_sources(0)->Clear(); },
         "INVALID_TENSOR", "source 0 has neither"},
        {"TooFewSources", [](auto& o) { o.clear_sources(); }, "INVALID_TENSOR",
         "0 sources, but the table has 1"},
        {"NoSuchSegment",
         [](auto& o) { SetRange(o.mutable_sources(0), 1, 0, 6); },
         "INVALID_TENSOR", "segment 1, but the session has 1"},
        {"NegativeSegment",
         [](auto& o) { SetRange(o.mutable_sources(0), -1, 0, 6); },
         "INVALID_TENSOR", "segment -1"},
        {"PastTheEnd",
         [](auto& o) { SetRange(o.mutable_destination(), 0, 3, 6); },
         "INVALID_TENSOR", "the destination has 6 bytes at offset 3"},
        {"NegativeOffset",
         [](auto& o) { SetRange(o.mutable_sources(0), 0, -1, 6); },
         "INVALID_TENSOR", "offset -1"},
        {"HugeOffset",
         [](auto& o) {
           SetRange(o.mutable_sources(0), 0, INT64_MAX, INT64_MAX);
         },
         "INVALID_TENSOR", "but segment 0 has 8 bytes"},
        {"InlineTooLarge",
         [](auto& o) {
           o.mutable_sources(0)->set_inline_data(
               std::string(kInlineBytesMax + 1, 'a'));
         },
         "INVALID_TENSOR", "source 0 has 1048577 bytes inline"},
        {"NoRowBytes", [](auto& o) { o.set_row_bytes(0); }, "INVALID_TENSOR",
         "row_bytes is 0"},
        {"FillDoesNotDivide", [](auto& o) { o.set_fill_value("abc"); },
         "INVALID_TENSOR", "fill value has 3 bytes"},
    }),
    [](const auto& info) { return info.param.name; });

TEST(WorkerSessionTest, RefusesMemoryThatIsNotPrivateOrNotAsDescribed) {
  Worker worker;
  Segment open_to_all(8, 0644), good(8);
  EXPECT_THAT(worker.client.OpenSession(Opening({&open_to_all}, 8)),
              AllOf(HasReason("SEGMENT_NOT_PRIVATE"),
                    StatusIs(absl::StatusCode::kPermissionDenied,
                             HasSubstr("has mode 0644"))));
  const auto wrong_size = worker.client.OpenSession(Opening({&good}, 9));
  EXPECT_THAT(wrong_size,
              AllOf(HasReason("INVALID_SEGMENT"),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("has 8 bytes, but size_bytes is 9"))));
  EXPECT_EQ(DetailOf(wrong_size.status()).metadata().at("size_bytes"), "8");
  // What was refused is not the worker's to remove.
  EXPECT_TRUE(open_to_all.linked());
  EXPECT_TRUE(good.linked());
}

TEST(WorkerSessionTest, RefusesNamesThatAreNotOurs) {
  Worker worker;
  for (const std::string& name :
       {std::string("/dev/shm/x"), std::string("shardwright-x"),
        std::string("/shardwright-"), std::string("/shardwright-../x"),
        std::string("/shardwright-a b"), std::string("/shardwright-a\0b", 16),
        "/shardwright-" + std::string(65, 'a'), std::string()}) {
    v1::OpenSessionRequest request;
    request.add_segments()->set_name(name);
    EXPECT_THAT(worker.client.OpenSession(request),
                HasReason("INVALID_SEGMENT"))
        << name;
  }
  v1::OpenSessionRequest request;
  request.add_segments()->set_name("/shardwright-never-made");
  EXPECT_THAT(worker.client.OpenSession(request),
              HasReason("SEGMENT_NOT_FOUND"));
}

// Waits for what happens in the server's threads when a call has ended.
bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (absl::Now() < deadline) {
    if (condition()) return true;
    std::this_thread::yield();
  }
  return false;
}

TEST(WorkerSessionTest, EndsWithItsCallAndUnlinks) {
  Worker worker;
  Segment segment(6);
  auto session = worker.client.OpenSession(Opening({&segment}, 6));
  ASSERT_THAT(session, IsOk());
  EXPECT_TRUE(segment.linked());
  v1::RunCopiesRequest request;
  request.set_session_id((*session)->id());
  EXPECT_EQ(worker.client.Describe()->session_count(), 1);
  session->reset();
  EXPECT_TRUE(Eventually([&] { return !segment.linked(); }));
  EXPECT_THAT(worker.client.RunCopies(request),
              AllOf(HasReason("SESSION_NOT_FOUND"),
                    StatusIs(absl::StatusCode::kNotFound, testing::_)));
  EXPECT_EQ(worker.client.Describe()->session_count(), 0);
}

TEST(WorkerSessionTest, EndsWithTheServer) {
  Worker worker;
  Segment segment(6);
  const auto session = worker.client.OpenSession(Opening({&segment}, 6));
  ASSERT_THAT(session, IsOk());
  worker.server = nullptr;
  EXPECT_TRUE(Eventually([&] { return !segment.linked(); }));
}

TEST(WorkerSessionTest, ANameThatHasANewOwnerStays) {
  Worker worker;
  Segment segment(6);
  auto session = worker.client.OpenSession(Opening({&segment}, 6));
  ASSERT_THAT(session, IsOk());
  shm_unlink(segment.name().c_str());
  close(shm_open(segment.name().c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  session->reset();
  EXPECT_TRUE(Eventually(
      [&] { return worker.client.Describe()->session_count() == 0; }));
  EXPECT_TRUE(segment.linked());
}

TEST(WorkerSessionTest, ThereAreSixtyFourAndNoMore) {
  Worker worker;
  std::vector<std::unique_ptr<WorkerSession>> sessions;
  for (int i = 0; i < SessionTable::kSessionsMax; ++i) {
    auto session = worker.client.OpenSession({});
    ASSERT_THAT(session, IsOk());
    sessions.push_back(*std::move(session));
  }
  EXPECT_THAT(worker.client.OpenSession({}), HasReason("TOO_MANY_SESSIONS"));
  sessions.pop_back();
  EXPECT_TRUE(Eventually([&] { return worker.client.OpenSession({}).ok(); }));
}

// Two workers with a clique of kind tp_cp between them.
class GatherServiceTest : public ::testing::Test {
 protected:
  GatherServiceTest() {
    std::thread other([this] { Form(1); });
    Form(0);
    other.join();
  }

  void Form(int position) {
    FormLoopback({"language/tp_cp/0", "tp_cp", {4, 5}}, position, factory_,
                 workers_[position].cliques);
  }

  // Both hold rows 1 and 0 of a source of 3.
  v1::GatherShardsRequest Request() const {
    v1::GatherShardsRequest request;
    request.set_kind("tp_cp");
    request.set_digest(9);
    *request.mutable_operation() = InlineOperation();
    request.mutable_operation()->mutable_destination()->set_inline_data(
        "bb--aa");
    request.mutable_operation()->mutable_sources(0)->set_inline_data("??????");
    return request;
  }

  using Response = absl::StatusOr<v1::GatherShardsResponse>;
  std::pair<Response, Response> Gather(const v1::GatherShardsRequest& first,
                                       const v1::GatherShardsRequest& second) {
    Response answer = absl::UnknownError("");
    std::thread other(
        [&] { answer = workers_[1].client.GatherShards(second); });
    Response own = workers_[0].client.GatherShards(first);
    other.join();
    return {std::move(own), std::move(answer)};
  }

  LoopbackFactory factory_;
  Worker workers_[2];
};

TEST_F(GatherServiceTest, EachGetsTheRowsOfAllAndKeepsTheOthers) {
  const auto [first, second] = Gather(Request(), Request());
  for (const Response& response : {first, second}) {
    ASSERT_THAT(response, IsOk());
    EXPECT_THAT(response->restored_rows(), ElementsAre(2));
    EXPECT_THAT(response->inline_sources(), ElementsAre("aabb??"));
  }
}

TEST_F(GatherServiceTest, ABadCallFailsAtOnceAtBoth) {
  v1::GatherShardsRequest bad = Request();
  bad.set_session_id("gone");
  const auto [first, second] = Gather(Request(), bad);
  EXPECT_THAT(first, HasReason("PEER_REFUSED"));
  EXPECT_THAT(second, HasReason("SESSION_NOT_FOUND"));
  // And the clique is as good as before.
  const auto [again, also] = Gather(Request(), Request());
  EXPECT_THAT(again, IsOk());
  EXPECT_THAT(also, IsOk());
}

TEST_F(GatherServiceTest, DigestsThatDifferAreRefused) {
  v1::GatherShardsRequest other = Request();
  other.set_digest(10);
  const auto [first, second] = Gather(Request(), other);
  EXPECT_THAT(first, HasReason("DIGEST_MISMATCH"));
  EXPECT_THAT(second, HasReason("DIGEST_MISMATCH"));
}

TEST_F(GatherServiceTest, AKindWithoutACliqueIsRefusedAtOnce) {
  v1::GatherShardsRequest request = Request();
  request.set_kind("pp");
  const absl::Time begin = absl::Now();
  EXPECT_THAT(workers_[0].client.GatherShards(request),
              AllOf(HasReason("CLIQUE_NOT_ACTIVE"),
                    StatusIs(absl::StatusCode::kFailedPrecondition,
                             HasSubstr("no clique of kind \"pp\""))));
  EXPECT_LT(absl::Now() - begin, WorkerService::kCliqueWait);
}

TEST_F(GatherServiceTest, ALostMemberEndsIt) {
  std::thread aborts([this] {
    workers_[1].cliques.Close(PeerLost("language/tp_cp/0", {5}, "killed"));
  });
  EXPECT_THAT(workers_[0].client.GatherShards(Request()),
              HasReason("PEER_LOST"));
  aborts.join();
}

}  // namespace
}  // namespace shardwright
