#include "coordinator/planner/balance.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace shardwright {
namespace {

constexpr int64_t kPackTokensMax = int64_t{1} << 31;  // Work stays below 2^62.
constexpr int64_t kStepsMax = int64_t{1} << 28;
constexpr int64_t kCpMax = int64_t{1} << 20;  // A share each is kept.

// 1 + 2 + ... + n
int64_t Triangle(int64_t n) { return n * (n + 1) / 2; }

int64_t RoundUp(int64_t value, int64_t factor) {
  return (value + factor - 1) / factor * factor;
}

// Adds documents up: the share of the first `position` tokens of a pack.
class Prefix {
 public:
  explicit Prefix(const std::vector<int64_t>& lengths) : starts_{0}, work_{0} {
    for (int64_t length : lengths) {
      starts_.push_back(starts_.back() + length);
      work_.push_back(work_.back() + Triangle(length));
    }
  }

  int64_t token_count() const { return starts_.back(); }

  CpShare Before(int64_t position) const {
    const int64_t tokens = std::min(position, token_count());
    const auto after = std::upper_bound(starts_.begin(), starts_.end(), tokens);
    const size_t document = after - starts_.begin() - 1;
    return {tokens, work_[document] + Triangle(tokens - starts_[document])};
  }

  void AddRange(int64_t begin, int64_t end, CpShare& share) const {
    const CpShare before = Before(begin);
    const CpShare after = Before(end);
    share.token_count += after.token_count - before.token_count;
    share.causal_work += after.causal_work - before.causal_work;
  }

 private:
  std::vector<int64_t> starts_;  // And the total.
  std::vector<int64_t> work_;    // Of all documents before this one.
};

// Chunks r and 2*cp-1-r of what `prefix` adds up, `length` with padding.
void AddZigzag(const Prefix& prefix, int64_t length,
               std::vector<CpShare>& ranks) {
  const int64_t cp = static_cast<int64_t>(ranks.size());
  const int64_t chunk = length / (2 * cp);
  for (int64_t i = 0; i < 2 * cp; ++i) {
    prefix.AddRange(i * chunk, (i + 1) * chunk,
                    ranks[std::min(i, 2 * cp - 1 - i)]);
  }
}

}  // namespace

absl::string_view CpSchemeName(CpScheme scheme) {
  switch (scheme) {
    case CpScheme::kContiguous:
      return "contiguous";
    case CpScheme::kWholePackZigzag:
      return "whole_pack_zigzag";
    case CpScheme::kPerDocumentZigzag:
      return "per_document_zigzag";
  }
  return "";
}

Problems CheckPack(const PackSpec& pack) {
  Problems problems;
  int64_t total = 0;
  for (size_t i = 0; i < pack.lengths.size(); ++i) {
    const int64_t length = pack.lengths[i];
    if (length < 0) {
      problems.push_back({absl::StrCat("lengths[", i, "]"),
                          absl::StrCat(length, " is negative"), ""});
    } else {
      // One above the limit stands for all that is above it.
      total = std::min(total + std::min(length, kPackTokensMax + 1),
                       kPackTokensMax + 1);
    }
  }
  if (problems.empty() && total < 1) {
    problems.push_back({"lengths", "there is no token", ""});
  }
  if (total > kPackTokensMax) {
    problems.push_back({"lengths",
                        absl::StrCat("the documents have more than ",
                                     kPackTokensMax, " tokens together"),
                        ""});
  }
  const int64_t documents = static_cast<int64_t>(pack.lengths.size());
  if (pack.cp < 1 || pack.cp > kCpMax) {
    problems.push_back(
        {"cp", absl::StrCat(pack.cp, " is not within [1, ", kCpMax, "]"), ""});
  } else if (pack.cp > kStepsMax / std::max<int64_t>(documents, 1)) {
    problems.push_back({"cp",
                        absl::StrCat("cp ", pack.cp, " times ", documents,
                                     " documents is above ", kStepsMax),
                        ""});
  }
  if (pack.tp < 1 || pack.tp > kStepsMax) {
    problems.push_back(
        {"tp", absl::StrCat(pack.tp, " is not within [1, ", kStepsMax, "]"),
         ""});
  }
  return problems;
}

CpBalance BalanceOf(const PackSpec& pack, CpScheme scheme) {
  CpBalance balance;
  balance.ranks.resize(pack.cp);
  const Prefix prefix(pack.lengths);
  if (scheme == CpScheme::kContiguous || pack.cp == 1) {
    balance.seq_length = RoundUp(prefix.token_count(), pack.cp * pack.tp);
    const int64_t slice = balance.seq_length / pack.cp;
    for (int64_t r = 0; r < pack.cp; ++r) {
      prefix.AddRange(r * slice, (r + 1) * slice, balance.ranks[r]);
    }
  } else if (scheme == CpScheme::kWholePackZigzag) {
    balance.seq_length = RoundUp(prefix.token_count(), 2 * pack.cp * pack.tp);
    AddZigzag(prefix, balance.seq_length, balance.ranks);
  } else {
    for (int64_t length : pack.lengths) {
      const int64_t padded = RoundUp(length, 2 * pack.cp * pack.tp);
      AddZigzag(Prefix({length}), padded, balance.ranks);
      balance.seq_length += padded;
    }
  }
  balance.padding_token_count = balance.seq_length - prefix.token_count();
  return balance;
}

}  // namespace shardwright
