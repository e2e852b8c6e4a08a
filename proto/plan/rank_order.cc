#include "proto/plan/rank_order.h"

#include <array>
#include <utility>

namespace shardwright {

// By digits, the lower first: the time does not depend on the order.
std::vector<ListedRank> InOrder(const std::vector<Rank>& ranks) {
  constexpr int kDigitBits = 12;
  constexpr size_t kDigits = size_t{1} << kDigitBits;
  static_assert(kWorldSizeMax == int64_t{1} << 2 * kDigitBits);
  std::vector<ListedRank> sorted;
  sorted.reserve(ranks.size());
  bool ascending = true;
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i] < 0 || ranks[i] >= kWorldSizeMax) continue;
    ascending &= sorted.empty() || RankOf(sorted.back()) <= ranks[i];
    sorted.push_back(PackListedRank(ranks[i], i));
  }
  if (ascending) return sorted;
  std::vector<ListedRank> next(sorted.size());
  for (const int shift : {0, kDigitBits}) {
    const auto digit = [shift](ListedRank listed) {
      return static_cast<size_t>(RankOf(listed) >> shift) % kDigits;
    };
    std::array<size_t, kDigits + 1> begin = {};
    for (const ListedRank listed : sorted) ++begin[digit(listed) + 1];
    for (size_t d = 0; d < kDigits; ++d) begin[d + 1] += begin[d];
    for (const ListedRank listed : sorted) {
      next[begin[digit(listed)]++] = listed;
    }
    std::swap(sorted, next);
  }
  return sorted;
}

}  // namespace shardwright
