// Compares every scheme with a reference that goes token by token.

#include "coordinator/planner/balance.h"

#include <limits>
#include <random>
#include <string>

#include "gtest/gtest.h"

namespace shardwright {
namespace {

constexpr int64_t kPadding = -1;

// Of each position of the padded pack, its token's position in its document.
std::vector<int64_t> PositionsOf(const PackSpec& pack, int64_t pack_factor,
                                 int64_t document_factor) {
  std::vector<int64_t> positions;
  for (int64_t length : pack.lengths) {
    for (int64_t p = 0; p < length; ++p) positions.push_back(p);
    for (int64_t p = length; p % document_factor != 0; ++p) {
      positions.push_back(kPadding);
    }
  }
  while (positions.size() % pack_factor != 0) positions.push_back(kPadding);
  return positions;
}

int64_t ZigzagRank(int64_t position, int64_t length, int64_t cp) {
  const int64_t chunk = position / (length / (2 * cp));
  return chunk < cp ? chunk : 2 * cp - 1 - chunk;
}

// The rank of each position.
std::vector<int64_t> OwnersOf(const PackSpec& pack, CpScheme scheme,
                              int64_t seq_length) {
  std::vector<int64_t> owners;
  if (pack.cp == 1) return std::vector<int64_t>(seq_length, 0);
  if (scheme == CpScheme::kPerDocumentZigzag) {
    for (int64_t length : pack.lengths) {
      const int64_t factor = 2 * pack.cp * pack.tp;
      while (length % factor != 0) ++length;
      for (int64_t p = 0; p < length; ++p) {
        owners.push_back(ZigzagRank(p, length, pack.cp));
      }
    }
    return owners;
  }
  for (int64_t p = 0; p < seq_length; ++p) {
    owners.push_back(scheme == CpScheme::kContiguous
                         ? p / (seq_length / pack.cp)
                         : ZigzagRank(p, seq_length, pack.cp));
  }
  return owners;
}

CpBalance Reference(const PackSpec& pack, CpScheme scheme) {
  const bool zigzag = scheme != CpScheme::kContiguous && pack.cp > 1;
  const int64_t factor = (zigzag ? 2 : 1) * pack.cp * pack.tp;
  const bool by_document =
      scheme == CpScheme::kPerDocumentZigzag && pack.cp > 1;
  const std::vector<int64_t> positions =
      PositionsOf(pack, by_document ? 1 : factor, by_document ? factor : 1);
  CpBalance balance;
  balance.seq_length = static_cast<int64_t>(positions.size());
  balance.ranks.resize(pack.cp);
  const std::vector<int64_t> owners =
      OwnersOf(pack, scheme, balance.seq_length);
  for (size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] == kPadding) {
      ++balance.padding_token_count;
      continue;
    }
    CpShare& share = balance.ranks[owners[i]];
    ++share.token_count;
    share.causal_work += positions[i] + 1;
  }
  return balance;
}

void ExpectIsReference(const PackSpec& pack, CpScheme scheme) {
  const CpBalance balance = BalanceOf(pack, scheme);
  const CpBalance expected = Reference(pack, scheme);
  EXPECT_EQ(balance.seq_length, expected.seq_length);
  EXPECT_EQ(balance.padding_token_count, expected.padding_token_count);
  ASSERT_EQ(balance.ranks.size(), expected.ranks.size());
  for (size_t r = 0; r < expected.ranks.size(); ++r) {
    EXPECT_EQ(balance.ranks[r].token_count, expected.ranks[r].token_count)
        << "rank " << r;
    EXPECT_EQ(balance.ranks[r].causal_work, expected.ranks[r].causal_work)
        << "rank " << r;
  }
}

TEST(BalanceTest, IsThatOfAReferenceThatGoesTokenByToken) {
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    PackSpec pack;
    pack.cp = 1 + random() % 9;
    pack.tp = 1 + random() % 4;
    pack.lengths = {1};
    for (int documents = random() % 12; documents > 0; --documents) {
      pack.lengths.push_back(random() % 200);
    }
    for (CpScheme scheme : kCpSchemes) {
      SCOPED_TRACE(testing::Message()
                   << "case " << i << ", " << CpSchemeName(scheme));
      ExpectIsReference(pack, scheme);
    }
  }
}

TEST(BalanceTest, OneDocumentThatDividesIsEvenUnderAZigzag) {
  const PackSpec pack = {{8192}, /*cp=*/4, /*tp=*/2};
  for (CpScheme scheme :
       {CpScheme::kWholePackZigzag, CpScheme::kPerDocumentZigzag}) {
    const CpBalance balance = BalanceOf(pack, scheme);
    EXPECT_EQ(balance.padding_token_count, 0);
    for (const CpShare& share : balance.ranks) {
      EXPECT_EQ(share.token_count, 2048);
      EXPECT_EQ(share.causal_work, int64_t{8192} * 8193 / 2 / 4);
    }
  }
}

TEST(BalanceTest, WorkOfTheLongestPackDoesNotOverflow) {
  const PackSpec pack = {{int64_t{1} << 31}, /*cp=*/1, /*tp=*/1};
  ASSERT_TRUE(CheckPack(pack).empty());
  EXPECT_EQ(BalanceOf(pack, CpScheme::kContiguous).ranks[0].causal_work,
            (int64_t{1} << 30) * ((int64_t{1} << 31) + 1));
}

TEST(CheckPackTest, NamesWhatIsWrong) {
  const auto fields = [](const PackSpec& pack) {
    std::vector<std::string> names;
    for (const Problem& problem : CheckPack(pack)) {
      names.push_back(problem.field);
    }
    return names;
  };
  using Names = std::vector<std::string>;
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(fields({{1, 0, 7}, 2, 1}), Names());
  EXPECT_EQ(fields({{}, 1, 1}), Names({"lengths"}));
  EXPECT_EQ(fields({{0, 0}, 1, 1}), Names({"lengths"}));
  EXPECT_EQ(fields({{5, -1, -2}, 1, 1}), Names({"lengths[1]", "lengths[2]"}));
  EXPECT_EQ(fields({{kMax, kMax}, 1, 1}), Names({"lengths"}));
  EXPECT_EQ(fields({{kMax}, 1, 1}), Names({"lengths"}));
  EXPECT_EQ(fields({{(int64_t{1} << 31) + 1}, 1, 1}), Names({"lengths"}));
  EXPECT_EQ(fields({{1, int64_t{1} << 31}, 1, 1}), Names({"lengths"}));
  EXPECT_EQ(fields({{5}, 0, 0}), Names({"cp", "tp"}));
  EXPECT_EQ(fields({{5}, int64_t{1} << 20, 1}), Names());
  EXPECT_EQ(fields({{5}, (int64_t{1} << 20) + 1, 1}), Names({"cp"}));
  EXPECT_EQ(fields({{5, 6}, kMax, kMax}), Names({"cp", "tp"}));
}

}  // namespace
}  // namespace shardwright
