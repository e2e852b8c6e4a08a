#include "worker/exec/agreement.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/plan/fingerprint.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

// What members send each other. All run on machines of one byte order.
struct Record {
  std::array<char, 24> operation = {};
  std::array<uint64_t, 6> values = {};
  Declared declared = {};
  int64_t refused = 0;
  std::array<char, 256> why = {};  // Ends with a 0.
};

template <size_t kSize>
void Write(absl::string_view text, std::array<char, kSize>& to) {
  std::memcpy(to.data(), text.data(), std::min(text.size(), kSize - 1));
}

// Text of another process: no more than its bytes, and fit to be printed.
template <size_t kSize>
std::string Read(const std::array<char, kSize>& from) {
  std::string text(from.data(), strnlen(from.data(), kSize));
  for (char& c : text) {
    if (!absl::ascii_isprint(c)) c = '?';
  }
  return text;
}

Record RecordOf(absl::string_view operation, absl::Span<const Term> terms,
                const Declared& declared, const absl::Status& refusal) {
  Record record;
  Write(operation, record.operation);
  for (size_t i = 0; i < terms.size(); ++i) record.values[i] = terms[i].value;
  record.declared = declared;
  record.refused = !refusal.ok();
  if (!refusal.ok()) {
    const std::string reason = ReasonOf(refusal);
    const std::string why =
        absl::StrCat(reason, reason.empty() ? "" : ": ", refusal.message());
    Write(CutText(why, record.why.size() - 1), record.why);
  }
  return record;
}

// OK if there is one value, else e.g. "…: rank 4-6 has 1, rank 7 has 2".
absl::Status ExpectOne(
    absl::string_view reason, absl::string_view problem,
    const std::map<std::string, std::vector<int64_t>>& ranks_by_value) {
  if (ranks_by_value.size() < 2) return absl::OkStatus();
  std::vector<std::string> sides;
  for (const auto& [value, ranks] : ranks_by_value) {
    sides.push_back(
        absl::StrCat("rank ", CompressRanks(ranks).ranges(), " has ", value));
  }
  return Error(absl::StatusCode::kInvalidArgument, reason,
               absl::StrCat(problem, ": ", absl::StrJoin(sides, ", ")));
}

absl::Status Compare(const std::vector<int64_t>& ranks,
                     const std::vector<Record>& records,
                     absl::Span<const Term> terms) {
  std::map<std::string, std::vector<int64_t>> refused, operations;
  for (size_t i = 0; i < records.size(); ++i) {
    if (records[i].refused) {
      refused[Read(records[i].why)].push_back(ranks[i]);
    }
    operations[Read(records[i].operation)].push_back(ranks[i]);
  }
  if (!refused.empty()) {
    std::vector<std::string> refusals;
    for (const auto& [why, refusing] : refused) {
      refusals.push_back(
          absl::StrCat("rank ", CompressRanks(refusing).ranges(), ": ", why));
    }
    return Error(absl::StatusCode::kInvalidArgument, "PEER_REFUSED",
                 CutText(absl::StrCat("arguments of other members were "
                                      "refused: ",
                                      absl::StrJoin(refusals, "; ")),
                         1024));
  }
  RETURN_IF_ERROR(ExpectOne("OPERATION_MISMATCH",
                            "the members call for different operations",
                            operations));
  for (size_t k = 0; k < terms.size(); ++k) {
    std::map<std::string, std::vector<int64_t>> values;
    for (size_t i = 0; i < records.size(); ++i) {
      const uint64_t value = records[i].values[k];
      values[terms[k].is_digest ? DigestText(value)
                                : absl::StrCat(static_cast<int64_t>(value))]
          .push_back(ranks[i]);
    }
    RETURN_IF_ERROR(ExpectOne(terms[k].reason, terms[k].problem, values));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Declared>> Agree(Communicator& communicator,
                                            absl::string_view operation,
                                            absl::Span<const Term> terms,
                                            const Declared& declared,
                                            const absl::Status& refusal) {
  const Record record = RecordOf(operation, terms, declared, refusal);
  std::vector<Record> records(communicator.size());
  const absl::Status met = communicator.AllGather(
      {reinterpret_cast<const char*>(&record), sizeof(record)},
      {reinterpret_cast<char*>(records.data()),
       records.size() * sizeof(record)});
  RETURN_IF_ERROR(refusal);
  RETURN_IF_ERROR(met);
  RETURN_IF_ERROR(Compare(communicator.ranks(), records, terms));
  std::vector<Declared> all;
  for (const Record& each : records) all.push_back(each.declared);
  return all;
}

}  // namespace shardwright
