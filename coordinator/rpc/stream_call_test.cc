// What is queued for a client that does not read, with gRPC's side written out.

#include "coordinator/rpc/stream_call.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/storage/memory_state_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using Message = v1::WatchLayoutsResponse;

// gRPC for one call: takes one message at a time.
class FakeReactor {
 public:
  virtual ~FakeReactor() = default;
  virtual void OnWriteDone(bool ok) = 0;
  virtual void OnCancel() = 0;
  virtual void OnDone() = 0;

  void StartWrite(const Message* message) {
    EXPECT_FALSE(writing_) << "two writes at a time";
    writing_ = true;
    written_.push_back(message);
  }
  void Finish(const grpc::Status& status) { end_ = FromGrpcStatus(status); }

  // The client reads one message.
  void Read() {
    writing_ = false;
    OnWriteDone(true);
  }
  const std::vector<const Message*>& written() const { return written_; }
  const std::optional<absl::Status>& end() const { return end_; }

 private:
  bool writing_ = false;
  std::vector<const Message*> written_;
  std::optional<absl::Status> end_;
};

class TestCall final : public StreamCall<FakeReactor, Message> {
 public:
  explicit TestCall(CoreLoop& loop) : StreamCall(loop, "peer") {}

  int all_read_count = 0;

 private:
  void OnAllRead() override { ++all_read_count; }
};

class StreamCallTest : public ::testing::Test {
 protected:
  StreamCallTest()
      : loop_(CoordinatorCore::Start(store_, {}, absl::Now()).value(),
              [] { return absl::Now(); }),
        call_(TestCall::Park(std::make_shared<TestCall>(loop_))) {}
  ~StreamCallTest() override { call_->OnDone(); }

  // Queues and sends a message of about that size.
  bool Send(size_t bytes) {
    auto message = std::make_shared<Message>();
    message->mutable_layout()->mutable_layout()->set_name(
        std::string(bytes, 'x'));
    const bool taken = call_->Queue(
        {call_->stream(), std::shared_ptr<const Message>(message)});
    call_->Pump();
    return taken;
  }

  MemoryStateStore store_;
  CoreLoop loop_;
  TestCall* call_;
};

TEST_F(StreamCallTest, IsCutOffAtItsBoundInMessages) {
  ASSERT_TRUE(Send(1));  // Is being written.
  for (size_t i = 0; i < kQueuedMessagesMax; ++i) ASSERT_TRUE(Send(1));
  EXPECT_FALSE(Send(1));
}

TEST_F(StreamCallTest, IsCutOffAtItsBoundInBytes) {
  ASSERT_TRUE(Send(kQueuedBytesMax));  // Is being written.
  ASSERT_TRUE(Send(kQueuedBytesMax / 2));
  ASSERT_TRUE(Send(kQueuedBytesMax));  // However large it is.
  EXPECT_FALSE(Send(1));
}

TEST_F(StreamCallTest, AReaderThatKeepsUpIsNeverCutOff) {
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(Send(kQueuedBytesMax));
    call_->Read();
  }
  EXPECT_EQ(call_->written().size(), 10);
  EXPECT_FALSE(call_->end().has_value());
}

TEST_F(StreamCallTest, WhoHasReadAllIsAskedForMore) {
  ASSERT_TRUE(Send(1));
  ASSERT_TRUE(Send(1));
  call_->Read();
  EXPECT_EQ(call_->all_read_count, 0);
  call_->Read();
  EXPECT_EQ(call_->all_read_count, 1);
}

TEST_F(StreamCallTest, WhoIsCutOffIsNamed) {
  EXPECT_EQ(call_->Describe(), "stream=1 peer=peer told=WatchLayoutsResponse");
}

TEST_F(StreamCallTest, WhoIsCutOffGetsWhatWasQueuedAndThenTheReason) {
  size_t sent = 0;
  while (Send(kQueuedBytesMax / 4)) ++sent;
  while (call_->written().size() < sent) {
    EXPECT_FALSE(call_->end().has_value());
    call_->Read();
  }
  call_->Read();
  ASSERT_TRUE(call_->end().has_value());
  EXPECT_THAT(*call_->end(), HasReason("SLOW_READER"));
}

TEST_F(StreamCallTest, AClientThatGoesLeavesNothingQueued) {
  ASSERT_TRUE(Send(1));
  ASSERT_TRUE(Send(1));
  call_->OnCancel();
  call_->Read();
  EXPECT_EQ(call_->written().size(), 1);
  ASSERT_TRUE(call_->end().has_value());
  EXPECT_THAT(*call_->end(), HasReason("CLIENT_GONE"));
}

}  // namespace
}  // namespace shardwright
