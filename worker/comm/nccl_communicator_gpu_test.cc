// Cliques of two GPUs. Members are threads of this process, each with its own
// GPU; one that is to be killed is a process of its own, which carries out
// what it is told on its standard input.

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/error.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/nccl_fixture.h"
#include "worker/comm/nccl_minter.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;

constexpr char kPeerWord[] = "--peer";

// The second member of two, in a process that can be killed.
class Peer {
 public:
  // Says when it is about to connect ('b'), and when it has ('c').
  explicit Peer(const std::string& id) {
    int in[2], out[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&files, out[1], STDOUT_FILENO);
    char name[] = "peer";
    char word[sizeof(kPeerWord)];
    std::memcpy(word, kPeerWord, sizeof(word));
    char* const arguments[] = {name, word, nullptr};
    EXPECT_EQ(posix_spawn(&pid_, "/proc/self/exe", &files, nullptr, arguments,
                          environ),
              0);
    posix_spawn_file_actions_destroy(&files);
    close(in[0]);
    close(out[1]);
    to_ = in[1];
    from_ = out[0];
    EXPECT_EQ(write(to_, id.data(), id.size()),
              static_cast<ssize_t>(id.size()));
  }
  ~Peer() {
    Kill();
    close(to_);
    close(from_);
  }

  // What it says next; 0: it has ended.
  char Hear() {
    char word = 0;
    return read(from_, &word, 1) == 1 ? word : 0;
  }
  void TellToMeet() { EXPECT_EQ(write(to_, "m", 1), 1); }
  void Kill() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
  int to_ = -1;
  int from_ = -1;
};

void Say(int fd, char word) {
  if (write(fd, &word, 1) != 1) _exit(1);
}

// The peer's main(): reads an id, connects, and then meets whenever it is told.
int RunPeer() {
  // NCCL may write to the standard output.
  const int out = dup(STDOUT_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  std::string id(128, '\0');
  for (size_t got = 0; got < id.size();) {
    const ssize_t count = read(STDIN_FILENO, &id[got], id.size() - got);
    if (count <= 0) return 1;
    got += count;
  }
  const auto attempt = Begin(1, 2);
  Say(out, 'b');
  const auto connected = attempt->Connect({id});
  if (!connected.ok()) {
    std::cerr << "peer: " << connected.status() << std::endl;
    return 1;
  }
  Say(out, 'c');
  for (char word = 0; read(STDIN_FILENO, &word, 1) == 1;) {
    Say(out, (*connected)->Barrier().ok() ? 'm' : 'x');
  }
  return 0;
}

class NcclCommunicatorTest : public NcclTest {
 protected:
  // A new attempt after a failed one works.
  static void ExpectToForm() {
    const auto attempt = Begin(0, 2);
    const std::string id = IdOf(*attempt);
    Peer peer(id);
    const auto connected = attempt->Connect({id});
    ASSERT_THAT(connected, IsOk());
    ASSERT_EQ(peer.Hear(), 'b');
    ASSERT_EQ(peer.Hear(), 'c');
    peer.TellToMeet();
    EXPECT_THAT((*connected)->Barrier(), IsOk());
    EXPECT_EQ(peer.Hear(), 'm');
  }
};

TEST_F(NcclCommunicatorTest, AllGpusOfTheMachineMeet) {
  const int size = std::min(GpuCount(), 8);
  const auto members = ConnectAll(size);
  OnEach(size, [&](int i) {
    for (int round = 0; round < 20; ++round) {
      ASSERT_THAT(members[i]->Barrier(), IsOk());
    }
    EXPECT_EQ(members[i]->position(), i);
    EXPECT_THAT(members[i]->status(), IsOk());
  });
}

TEST_F(NcclCommunicatorTest, AllGatherGivesEveryMemberTheInputsInGroupOrder) {
  const auto members = ConnectAll(2);
  OnEach(2, [&](int i) {
    for (int round = 0; round < 20; ++round) {
      const std::string input(1001, static_cast<char>('a' + i + round));
      std::string output(2002, '?');
      ASSERT_THAT(members[i]->AllGather(input, absl::MakeSpan(output)), IsOk());
      for (int j = 0; j < 2; ++j) {
        ASSERT_EQ(output.substr(j * 1001, 1001),
                  std::string(1001, static_cast<char>('a' + j + round)));
      }
    }
  });
}

TEST_F(NcclCommunicatorTest, AllGatherVTakesMoreThanTheStagingAndNothing) {
  const auto members = ConnectAll(2);
  // No multiple of a chunk; one has much more than the other.
  const std::vector<int64_t> counts = {3, (20 << 20) + 7};
  std::string large(counts[1], '\0');
  for (size_t i = 0; i < large.size(); ++i) large[i] = i * 31 >> 7;
  const std::string expected = "abc" + large;
  OnEach(2, [&](int i) {
    std::string output(expected.size(), '?');
    ASSERT_THAT(members[i]->AllGatherV(i == 0 ? "abc" : large, counts,
                                       absl::MakeSpan(output)),
                IsOk());
    EXPECT_TRUE(output == expected);
    const std::vector<int64_t> none = {0, 0};
    EXPECT_THAT(members[i]->AllGatherV({}, none, {}), IsOk());
    EXPECT_THAT(members[i]->Barrier(), IsOk());
  });
}

// Bytes on a GPU, and what is in them.
class DeviceBytes {
 public:
  DeviceBytes(int device, const std::string& bytes) : size_(bytes.size()) {
    EXPECT_EQ(cudaSetDevice(device), cudaSuccess);
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), size_), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, bytes.data(), size_, cudaMemcpyHostToDevice),
              cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  ~DeviceBytes() { EXPECT_EQ(cudaFree(data_), cudaSuccess); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  absl::Span<char> At(int64_t offset, int64_t size) {
    return {data_ + offset, static_cast<size_t>(size)};
  }
  std::string Read() const {
    std::string bytes(size_, '!');
    EXPECT_EQ(cudaMemcpy(&bytes[0], data_, size_, cudaMemcpyDeviceToHost),
              cudaSuccess);
    return bytes;
  }

 private:
  char* data_ = nullptr;
  const size_t size_;
};

// Two messages the same way, of odd sizes and at odd addresses, one to its
// sender, an empty one, and much one way only; the bytes around stay.
TEST_F(NcclCommunicatorTest, ExchangeTakesMessagesBetweenGpusInOrder) {
  constexpr int64_t kMany = (32 << 20) + 3;
  const auto members = ConnectAll(2);
  OnEach(2, [&](int i) {
    const int other = 1 - i;
    const auto letter = [](int member, int message, int round) {
      return static_cast<char>('a' + member * 8 + message + round);
    };
    for (int round = 0; round < 3; ++round) {
      const std::string large(i == 0 ? kMany : 1, letter(0, 4, round));
      DeviceBytes from(i, std::string(100, letter(i, 0, round)) +
                              std::string(201, letter(i, 1, round)) +
                              std::string(50, letter(i, 2, round)));
      DeviceBytes to(i, std::string(400, '?'));
      DeviceBytes sent(i, large);
      DeviceBytes got(i, std::string(i == 1 ? kMany : 1, '?'));
      std::vector<Outgoing> sends = {{other, from.At(0, 100)},
                                     {i, from.At(301, 50)},
                                     {other, from.At(301, 0)},
                                     {other, from.At(100, 201)}};
      std::vector<Incoming> receives = {{other, to.At(1, 100)},
                                        {other, to.At(101, 0)},
                                        {other, to.At(103, 201)},
                                        {i, to.At(310, 50)}};
      if (i == 0) sends.push_back({1, sent.At(0, kMany)});
      if (i == 1) receives.push_back({0, got.At(0, kMany)});
      ASSERT_THAT(members[i]->Exchange(sends, receives), IsOk());
      EXPECT_EQ(to.Read(),
                "?" + std::string(100, letter(other, 0, round)) + "??" +
                    std::string(201, letter(other, 1, round)) +
                    std::string(6, '?') + std::string(50, letter(i, 2, round)) +
                    std::string(40, '?'));
      if (i == 1) {
        EXPECT_TRUE(got.Read() == std::string(kMany, letter(0, 4, round)));
      }
    }
    ASSERT_THAT(members[i]->Exchange({}, {}), IsOk());
    ASSERT_THAT(members[i]->Barrier(), IsOk());
  });
}

// Gigabytes are under way when both give up. Once the receiver's call has
// returned, what it writes there stays.
TEST_F(NcclCommunicatorTest, NothingIsWrittenOnceAnExchangeHasFailed) {
  constexpr int64_t kMany = int64_t{4} << 30;
  constexpr int64_t kPiece = 64 << 20;
  const auto members = ConnectAll(2);
  std::thread gives_up;
  OnEach(2, [&](int i) {
    ASSERT_EQ(cudaSetDevice(i), cudaSuccess);
    char* buffer = nullptr;
    ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&buffer), kMany),
              cudaSuccess);
    ASSERT_EQ(cudaMemset(buffer, i, kMany), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_THAT(members[i]->Barrier(), IsOk());
    const absl::Span<char> bytes = {buffer, static_cast<size_t>(kMany)};
    if (i == 0) {
      EXPECT_FALSE(members[0]->Exchange({{1, bytes}}, {}).ok());
    } else {
      gives_up = std::thread([&] {
        ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
        char first = 1;
        while (first == 1) {  // Nothing has come.
          ASSERT_EQ(cudaMemcpy(&first, buffer, 1, cudaMemcpyDeviceToHost),
                    cudaSuccess);
        }
        for (int k : {1, 0}) {
          members[k]->Abort(absl::CancelledError("given up"));
        }
      });
      EXPECT_FALSE(members[1]->Exchange({}, {{0, bytes}}).ok());
      ASSERT_EQ(cudaMemset(buffer, 7, kMany), cudaSuccess);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      const std::string expected(kPiece, 7);
      std::string piece(kPiece, '!');
      for (int64_t at = 0; at < kMany; at += kPiece) {
        ASSERT_EQ(
            cudaMemcpy(&piece[0], buffer + at, kPiece, cudaMemcpyDeviceToHost),
            cudaSuccess);
        ASSERT_TRUE(piece == expected) << "in the bytes from " << at;
      }
    }
    EXPECT_EQ(cudaFree(buffer), cudaSuccess);
  });
  gives_up.join();
}

TEST_F(NcclCommunicatorTest, AMemberThatDoesNotConnectIsNamedAtTheDeadline) {
  const auto attempt = Begin(0, 2, absl::Seconds(3));
  const auto connected = attempt->Connect({IdOf(*attempt)});
  EXPECT_THAT(connected, HasReason("MEMBERS_MISSING"));
  EXPECT_THAT(connected.status().message(),
              HasSubstr("clique language/tp/0 attempt 3: connect: nothing came "
                        "from rank 11 in 3s"));
  ExpectToForm();
}

TEST_F(NcclCommunicatorTest, AbortEndsConnectAndTheNextAttemptWorks) {
  const auto attempt = Begin(0, 2);
  const std::string id = IdOf(*attempt);
  const int threads = ThreadCount();
  const absl::Time begin = absl::Now();
  std::thread connects(
      [&] { EXPECT_THAT(attempt->Connect({id}), HasReason("PEER_LOST")); });
  // Itself, the one that watches, and NCCL's own, which waits for the peer.
  while (ThreadCount() < threads + 3 && absl::Now() - begin < kPatience / 2) {
    sched_yield();
  }
  attempt->Abort(PeerLost("language/tp/0", {11}, "lease expired"));
  connects.join();
  EXPECT_LT(absl::Now() - begin, kPatience);
  ExpectToForm();
}

TEST_F(NcclCommunicatorTest, APeerKilledWhileItConnectsEndsTheAttempt) {
  const auto attempt = Begin(0, 2);
  const std::string id = IdOf(*attempt);
  Peer peer(id);
  std::thread connects([&] { EXPECT_FALSE(attempt->Connect({id}).ok()); });
  EXPECT_EQ(peer.Hear(), 'b');
  peer.Kill();
  attempt->Abort(PeerLost("language/tp/0", {11}, "lease expired"));
  connects.join();
  ExpectToForm();
}

// A barrier, or waiting for a message.
absl::Status Operate(Communicator& member, bool exchanges, DeviceBytes& bytes) {
  if (!exchanges) return member.Barrier();
  return member.Exchange({}, {{1, bytes.At(0, 1000)}});
}

TEST_F(NcclCommunicatorTest, APeerKilledInUseEndsWhatWaitsForIt) {
  for (const bool exchanges : {false, true}) {
    DeviceBytes bytes(0, std::string(1000, '?'));  // Outlives the waiting.
    const auto attempt = Begin(0, 2);
    const std::string id = IdOf(*attempt);
    Peer peer(id);
    const auto connected = attempt->Connect({id});
    ASSERT_THAT(connected, IsOk());
    EXPECT_EQ(peer.Hear(), 'b');
    EXPECT_EQ(peer.Hear(), 'c');
    peer.TellToMeet();
    EXPECT_THAT((*connected)->Barrier(), IsOk());
    EXPECT_EQ(peer.Hear(), 'm');
    // Now the peer is not told.
    std::thread waits([&] {
      const absl::Status end = Operate(**connected, exchanges, bytes);
      EXPECT_FALSE(end.ok());
      EXPECT_EQ(end.message(), (*connected)->status().message());
    });
    peer.Kill();
    (*connected)->Abort(PeerLost("language/tp/0", {11}, "lease expired"));
    waits.join();
    EXPECT_FALSE(Operate(**connected, exchanges, bytes).ok());
    ExpectToForm();
  }
}

TEST_F(NcclCommunicatorTest, AnOperationThatOneMemberDoesNotCallTimesOut) {
  for (const bool exchanges : {false, true}) {
    DeviceBytes bytes(0, std::string(1000, '?'));
    std::vector<std::unique_ptr<CommunicatorAttempt>> attempts;
    for (int i = 0; i < 2; ++i) {
      attempts.push_back(Begin(i, 2, absl::Seconds(10)));
    }
    const std::string id = IdOf(*attempts[0]);
    std::vector<std::shared_ptr<Communicator>> members(2);
    OnEach(2, [&](int i) { members[i] = *attempts[i]->Connect({id}); });
    OnEach(2, [&](int i) { ASSERT_THAT(members[i]->Barrier(), IsOk()); });
    const absl::Status end = Operate(*members[0], exchanges, bytes);
    EXPECT_THAT(end, HasReason("MEMBERS_MISSING"));
    EXPECT_EQ(DetailOf(end).missing().ranges(), "11");
  }
}

}  // namespace
}  // namespace shardwright

int main(int argc, char** argv) {
  if (const auto exit_code = shardwright::RunNcclMinter(argc, argv)) {
    return *exit_code;
  }
  if (argc == 2 && std::strcmp(argv[1], shardwright::kPeerWord) == 0) {
    return shardwright::RunPeer();
  }
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
