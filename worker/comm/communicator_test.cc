// What every Communicator promises, asked of both: members are threads of this
// test, connected through slots that the test carries from one to another.

#include "worker/comm/communicator.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/gloo_communicator.h"
#include "worker/comm/loopback_communicator.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Milliseconds(1500);

struct Backend {
  std::string name;
  std::function<std::unique_ptr<CommunicatorFactory>()> make;
};

class CommunicatorTest : public ::testing::TestWithParam<Backend> {
 protected:
  CommunicatorTest() : factory_(GetParam().make()) {}

  // Position i has rank 10 + i.
  std::unique_ptr<CommunicatorAttempt> Begin(int position, int size,
                                             uint64_t identity = 7) {
    CliqueAttempt attempt;
    attempt.clique = "language/tp/0";
    attempt.ranks.resize(size);
    std::iota(attempt.ranks.begin(), attempt.ranks.end(), 10);
    attempt.position = position;
    attempt.identity = identity;
    attempt.slot_indexes = {position};
    attempt.slot_count = size;
    auto begun = factory_->Begin(attempt);
    EXPECT_THAT(begun, IsOk());
    return *std::move(begun);
  }

  std::vector<std::unique_ptr<CommunicatorAttempt>> BeginAll(int size) {
    std::vector<std::unique_ptr<CommunicatorAttempt>> attempts;
    for (int i = 0; i < size; ++i) attempts.push_back(Begin(i, size));
    return attempts;
  }

  static std::vector<std::string> SlotsOf(
      const std::vector<std::unique_ptr<CommunicatorAttempt>>& attempts) {
    std::vector<std::string> slots;
    for (const auto& attempt : attempts) {
      slots.push_back(attempt->Slots()->begin()->second);
    }
    return slots;
  }

  std::vector<std::shared_ptr<Communicator>> ConnectAll(int size) {
    const auto attempts = BeginAll(size);
    const std::vector<std::string> slots = SlotsOf(attempts);
    std::vector<std::shared_ptr<Communicator>> communicators(size);
    OnEach(size, [&](int i) {
      auto connected = attempts[i]->Connect(slots);
      ASSERT_THAT(connected, IsOk());
      communicators[i] = *std::move(connected);
    });
    return communicators;
  }

  static void OnEach(int size, const std::function<void(int)>& run) {
    std::vector<std::thread> threads;
    for (int i = 0; i < size; ++i) threads.emplace_back(run, i);
    for (std::thread& thread : threads) thread.join();
  }

  const std::unique_ptr<CommunicatorFactory> factory_;
};

TEST_P(CommunicatorTest, AllGatherGivesEveryMemberTheInputsInGroupOrder) {
  const auto members = ConnectAll(4);
  OnEach(4, [&](int i) {
    for (int round = 0; round < 20; ++round) {
      const std::string input(1000, static_cast<char>('a' + i + round));
      std::string output(4000, '?');
      ASSERT_THAT(members[i]->AllGather(input, absl::MakeSpan(output)), IsOk());
      for (int j = 0; j < 4; ++j) {
        ASSERT_EQ(output.substr(j * 1000, 1000),
                  std::string(1000, static_cast<char>('a' + j + round)));
      }
    }
  });
}

TEST_P(CommunicatorTest, AllGatherVTakesSizesThatDifferAndNoneAtAll) {
  const auto members = ConnectAll(4);
  const std::vector<int64_t> counts = {3, 0, 1 << 20, 1};
  const std::string expected =
      "aaa" + std::string(1 << 20, 'c') + std::string(1, 'd');
  OnEach(4, [&](int i) {
    std::string output(expected.size(), '?');
    ASSERT_THAT(members[i]->AllGatherV(
                    std::string(counts[i], static_cast<char>('a' + i)), counts,
                    absl::MakeSpan(output)),
                IsOk());
    EXPECT_EQ(output, expected);
    ASSERT_THAT(members[i]->AllGatherV({}, {0, 0, 0, 0}, {}), IsOk());
    ASSERT_THAT(members[i]->Barrier(), IsOk());
  });
}

// A message's bytes tell where it comes from, where it goes and which it is.
std::string Message(int from, int to, int number, size_t size) {
  std::string bytes = absl::StrCat(from, " to ", to, " number ", number, ".");
  bytes.resize(size, static_cast<char>('a' + from));
  return bytes;
}

TEST_P(CommunicatorTest, ExchangeTakesMessagesBetweenAnyMembersInOrder) {
  // (from, to, size). Two go the same way, one to its sender, one is empty;
  // nobody sends to member 3, and member 0 to nobody.
  const std::vector<std::tuple<int, int, size_t>> messages = {
      {1, 0, 40}, {2, 0, 1 << 20}, {1, 0, 50}, {1, 2, 30},
      {2, 1, 60}, {3, 2, 1 << 21}, {2, 2, 70}, {3, 0, 0}};
  const auto members = ConnectAll(4);
  OnEach(4, [&](int i) {
    for (int round = 0; round < 3; ++round) {
      std::vector<std::string> sent, received;
      for (size_t k = 0; k < messages.size(); ++k) {
        const auto [from, to, size] = messages[k];
        sent.push_back(Message(from, to, k + round, size));
        received.push_back(std::string(size, '?'));
      }
      std::vector<Outgoing> sends;
      std::vector<Incoming> receives;
      for (size_t k = 0; k < messages.size(); ++k) {
        const auto [from, to, size] = messages[k];
        if (from == i) sends.push_back({to, sent[k]});
        if (to == i) receives.push_back({from, absl::MakeSpan(received[k])});
      }
      ASSERT_THAT(members[i]->Exchange(sends, receives), IsOk());
      for (size_t k = 0; k < messages.size(); ++k) {
        if (std::get<1>(messages[k]) != i) continue;
        EXPECT_EQ(received[k], sent[k]);
      }
    }
    // With none, and among other operations.
    ASSERT_THAT(members[i]->Exchange({}, {}), IsOk());
    ASSERT_THAT(members[i]->Barrier(), IsOk());
  });
}

TEST_P(CommunicatorTest, AMemberThatDiesBeforeItsMessageIsNamed) {
  auto members = ConnectAll(3);
  const absl::Time begin = absl::Now();
  std::string bytes(1 << 20, '?');
  OnEach(2, [&](int i) {
    if (i == 1) {
      members[2] = nullptr;
      return;
    }
    const absl::Status end =
        members[0]->Exchange({}, {{2, absl::MakeSpan(bytes)}});
    EXPECT_THAT(end, HasReason("PEER_LOST"));
    EXPECT_EQ(DetailOf(end).missing().ranges(), "12") << end;
  });
  EXPECT_LT(absl::Now() - begin, kTimeout);
  EXPECT_EQ(bytes, std::string(1 << 20, '?'));
}

TEST_P(CommunicatorTest, AMemberThatDoesNotTakeItsMessageIsNamed) {
  const auto members = ConnectAll(3);
  const std::string bytes(1 << 20, 'a');
  const absl::Status end = members[0]->Exchange({{1, bytes}}, {});
  EXPECT_THAT(end, HasReason("MEMBERS_MISSING"));
  EXPECT_THAT(DetailOf(end).missing().ranges(), HasSubstr("11")) << end;
}

TEST_P(CommunicatorTest, MembersKnowTheirPlace) {
  const auto members = ConnectAll(2);
  EXPECT_THAT(members[1]->ranks(), ::testing::ElementsAre(10, 11));
  EXPECT_EQ(members[1]->position(), 1);
  EXPECT_EQ(members[1]->size(), 2);
}

TEST_P(CommunicatorTest, AMemberThatDiesIsNamedAndNobodyWaitsForIt) {
  auto members = ConnectAll(4);
  const absl::Time begin = absl::Now();
  OnEach(2, [&](int i) {
    if (i == 1) {
      members[2] = nullptr;
    } else {
      EXPECT_THAT(members[0]->Barrier(),
                  AllOf(HasReason("PEER_LOST"),
                        StatusIs(absl::StatusCode::kAborted,
                                 HasSubstr("language/tp/0: lost rank 12"))));
    }
  });
  // Nor for those who found out.
  EXPECT_THAT(members[3]->Barrier(), HasReason("PEER_LOST"));
  EXPECT_THAT(members[1]->Barrier(), HasReason("PEER_LOST"));
  EXPECT_THAT(members[1]->Barrier(), HasReason("PEER_LOST"));
  EXPECT_LT(absl::Now() - begin, kTimeout);
}

// Those who find out end their own connections as well.
TEST_P(CommunicatorTest, AllWhoWaitNameTheMemberThatDied) {
  for (int round = 0; round < 10; ++round) {
    auto members = ConnectAll(6);
    std::vector<absl::Status> ends(6);
    OnEach(6, [&](int i) {
      if (i != 2) ends[i] = members[i]->Barrier();
      members[i] = nullptr;
    });
    for (int i = 0; i < 6; ++i) {
      if (i == 2) continue;
      EXPECT_THAT(ends[i], HasReason("PEER_LOST"));
      EXPECT_EQ(DetailOf(ends[i]).missing().ranges(), "12") << ends[i];
    }
  }
}

TEST_P(CommunicatorTest, AMemberThatDiesIsNoticedWhenNothingRuns) {
  auto members = ConnectAll(3);
  EXPECT_THAT(members[0]->status(), IsOk());
  members[1] = nullptr;
  const absl::Time deadline = absl::Now() + kTimeout;
  while (members[0]->status().ok() && absl::Now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_THAT(members[0]->status(), HasReason("PEER_LOST"));
}

TEST_P(CommunicatorTest, AMemberThatDoesNotCallIsNamedAtTheDeadline) {
  const auto members = ConnectAll(3);
  std::vector<absl::Status> ends(3);
  OnEach(3, [&](int i) {
    if (i != 1) ends[i] = members[i]->Barrier();
  });
  EXPECT_TRUE(ReasonOf(ends[0]) == "MEMBERS_MISSING" ||
              ReasonOf(ends[2]) == "MEMBERS_MISSING")
      << ends[0] << ends[2];
  for (const absl::Status& end : {ends[0], ends[2]}) {
    if (ReasonOf(end) == "MEMBERS_MISSING") {
      EXPECT_EQ(DetailOf(end).missing().ranges(), "11") << end;
    } else {
      // The other one timed out first and gave up.
      EXPECT_THAT(end, HasReason("PEER_LOST"));
    }
  }
}

TEST_P(CommunicatorTest, AbortEndsWhatWaitsWithItsReasonAndPeersFail) {
  const auto members = ConnectAll(3);
  const absl::Time begin = absl::Now();
  std::thread aborts([&] { members[0]->Abort(absl::InternalError("enough")); });
  OnEach(2, [&](int i) {
    EXPECT_THAT(members[i]->Barrier(),
                StatusIs(i == 0 ? absl::StatusCode::kInternal
                                : absl::StatusCode::kAborted,
                         ::testing::_));
  });
  aborts.join();
  EXPECT_LT(absl::Now() - begin, kTimeout);
  EXPECT_THAT(members[0]->Barrier(),
              StatusIs(absl::StatusCode::kInternal, "enough"));
}

TEST_P(CommunicatorTest, AbortEndsConnect) {
  const auto attempts = BeginAll(3);
  const std::vector<std::string> slots = SlotsOf(attempts);
  const absl::Time begin = absl::Now();
  std::thread aborts([&] {
    for (int i = 0; i < 2; ++i) {
      attempts[i]->Abort(PeerLost("language/tp/0", {12}, "lease expired"));
    }
  });
  OnEach(2, [&](int i) {
    EXPECT_THAT(attempts[i]->Connect(slots), HasReason("PEER_LOST"));
  });
  aborts.join();
  EXPECT_LT(absl::Now() - begin, kTimeout);
}

TEST_P(CommunicatorTest, ConnectRefusesWhatIsNoSlot) {
  const auto attempt = Begin(0, 2);
  EXPECT_THAT(attempt->Connect({"x", "y"}), HasReason("INVALID_SLOT"));
}

INSTANTIATE_TEST_SUITE_P(
    Backends, CommunicatorTest,
    ::testing::ValuesIn(std::vector<Backend>{
        {"Gloo",
         [] {
           GlooOptions options;
           options.connect_timeout = kTimeout;
           options.operation_timeout = kTimeout;
           auto factory = CreateGlooFactory(options);
           EXPECT_THAT(factory, IsOk());
           return *std::move(factory);
         }},
        {"Loopback",
         [] { return std::make_unique<LoopbackFactory>(kTimeout); }},
    }),
    [](const auto& info) { return info.param.name; });

// Ports are reused: who answers there may belong to another attempt.
TEST(GlooCommunicatorTest, AMemberOfAnotherAttemptIsFoundOut) {
  auto factory = CreateGlooFactory({});
  ASSERT_THAT(factory, IsOk());
  std::vector<std::unique_ptr<CommunicatorAttempt>> attempts;
  std::vector<std::string> slots;
  for (int i = 0; i < 2; ++i) {
    CliqueAttempt attempt{"language/tp/0", {10, 11}, i, 40u + i, {i}, 2};
    auto begun = (*factory)->Begin(attempt);
    ASSERT_THAT(begun, IsOk());
    slots.push_back((*begun)->Slots()->at(i));
    attempts.push_back(*std::move(begun));
  }
  std::thread other([&] {
    EXPECT_THAT(attempts[1]->Connect(slots), HasReason("PEER_LOST"));
  });
  EXPECT_THAT(
      attempts[0]->Connect(slots),
      AllOf(HasReason("PEER_LOST"),
            StatusIs(absl::StatusCode::kAborted, HasSubstr("lost rank 11"))));
  other.join();
}

// As a peer does that dies while it connects.
void ConnectAndReset(const std::string& slot, int position) {
  ASSERT_EQ(slot[0], '\4');  // Then the address, and a port by position.
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  std::memcpy(&address.sin_addr, &slot[1], sizeof(address.sin_addr));
  std::memcpy(&address.sin_port, &slot[5 + position * 2],
              sizeof(address.sin_port));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_EQ(
      connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
      0);
  const linger at_once = {1, 0};
  ASSERT_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)),
            0);
  close(fd);
}

TEST(GlooCommunicatorTest, APeerThatDiesWhileItConnectsEndsTheAttemptOnly) {
  GlooOptions options;
  options.host = "127.0.0.1";
  options.connect_timeout = absl::Milliseconds(500);
  auto factory = CreateGlooFactory(options);
  ASSERT_THAT(factory, IsOk());
  // Often enough to hit the moment at which Gloo's thread would have thrown.
  for (int round = 0; round < 400; ++round) {
    auto attempt = (*factory)->Begin({"language/tp/0", {10, 11}, 0, 7, {0}, 2});
    ASSERT_THAT(attempt, IsOk());
    const std::string slot = (*attempt)->Slots()->at(0);
    ConnectAndReset(slot, 1);
    if (round == 0) {
      EXPECT_FALSE((*attempt)->Connect({slot, slot}).ok());
    }
  }
}

TEST(GlooCommunicatorTest, ASlotOfALargeCliqueFitsAWireSlot) {
  auto factory = CreateGlooFactory({});
  ASSERT_THAT(factory, IsOk());
  CliqueAttempt attempt;
  attempt.ranks.resize(64);
  attempt.slot_indexes = {0};
  auto begun = (*factory)->Begin(attempt);
  ASSERT_THAT(begun, IsOk());
  EXPECT_LE((*begun)->Slots()->at(0).size(), 4096);
}

TEST(GlooCommunicatorTest, RefusesAHostThatIsNotHere) {
  GlooOptions options;
  options.host = "no-such-host.invalid";
  EXPECT_THAT(CreateGlooFactory(options),
              AllOf(HasReason("INVALID_COMM_HOST"),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("no-such-host.invalid"))));
}

}  // namespace
}  // namespace shardwright
