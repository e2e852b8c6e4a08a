#include "tests/property/random_values.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"

namespace shardwright {
namespace {

std::vector<int64_t> Divisors(int64_t n) {
  std::vector<int64_t> divisors;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) divisors.push_back(d);
  }
  return divisors;
}

std::optional<int64_t> NothingForOne(int64_t size, bool explicit_one) {
  if (size == 1 && !explicit_one) return std::nullopt;
  return size;
}

}  // namespace

int64_t RandomValues::Number(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(engine_() % uint64_t(high - low + 1));
}

std::string RandomValues::SomeOrder(const ModuleSpec& module, bool experts) {
  // Both views must have the same pp groups: with experts pp is at one end, and
  // no dimension is left out, for its counterpart would be the slowest.
  std::vector<std::string> names = {"tp", "gtp_remat", "cp", "dp"};
  if (!experts) names.push_back("pp");
  Shuffle(names);
  if (experts) {
    names.insert(Chance(30) ? names.begin() : names.end(), "pp");
  }
  const std::pair<const char*, std::optional<int64_t>> sizes[] = {
      {"tp", module.tp}, {"gtp_remat", module.gtp_remat}, {"cp", module.cp}};
  for (const auto& [name, size] : sizes) {
    if (!experts && size.value_or(1) == 1 && Chance(50)) {
      names.erase(std::find(names.begin(), names.end(), name));
    }
  }
  if (Chance(20)) names.insert(names.begin() + Number(0, names.size()), "ep");
  return absl::StrJoin(names, "-");
}

ModuleSpec RandomValues::SomeGrid(int64_t ranks_max, int64_t* rank_count) {
  ModuleSpec module;
  int64_t left = ranks_max;
  const auto size = [&](int64_t most) {
    const int64_t chosen = Number(1, std::min(most, left));
    left /= chosen;
    return chosen;
  };
  const int64_t tp = size(4), cp = size(4), pp = size(3), gtp_remat = size(2);
  *rank_count = tp * cp * pp * gtp_remat * size(3);
  module.tp = NothingForOne(tp, Chance(50));
  module.cp = NothingForOne(cp, Chance(50));
  module.pp = NothingForOne(pp, Chance(50));
  module.gtp_remat = NothingForOne(gtp_remat, Chance(50));
  int64_t rest = *rank_count / pp;
  const auto divisor = [&] {
    const std::vector<int64_t> divisors = Divisors(rest);
    const int64_t chosen = divisors[Number(0, divisors.size() - 1)];
    rest /= chosen;
    return chosen;
  };
  const bool experts = Chance(50);
  if (experts) {
    module.ep = divisor();
    module.expert_tp = divisor();
    module.expert_gtp_remat = divisor();
  }
  module.sequence_parallel = Chance(50);
  if (Chance(60)) module.order = SomeOrder(module, experts);
  return module;
}

void RandomValues::PlaceRanks(LayoutSpec& spec,
                              const std::vector<int64_t>& counts) {
  spec.world_size = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  std::vector<Rank> ranks(spec.world_size);
  std::iota(ranks.begin(), ranks.end(), 0);
  const bool scattered = Chance(30);
  if (scattered) Shuffle(ranks);
  std::vector<size_t> places(counts.size());
  std::iota(places.begin(), places.end(), 0);
  Shuffle(places);
  auto next = ranks.begin();
  for (size_t i : places) {
    ModuleSpec& module = spec.modules[i];
    if (scattered || Chance(30)) {
      module.ranks.assign(next, next + counts[i]);
      if (Chance(70)) Shuffle(module.ranks);
    } else {
      module.first_rank = *next;
      module.rank_count = counts[i];
    }
    next += counts[i];
  }
}

LayoutSpec RandomValues::SomeLayout(int64_t ranks_max) {
  LayoutSpec spec;
  spec.name = absl::StrCat("job-", Number(0, 9));
  const char* const names[] = {"language", "images", "audio"};
  std::vector<int64_t> counts(Number(1, 3));
  for (size_t i = 0; i < counts.size(); ++i) {
    ModuleSpec& module = spec.modules.emplace_back(SomeGrid(
        i == 0 ? ranks_max : std::min<int64_t>(ranks_max, 8), &counts[i]));
    module.name = names[i];
    module.role = i == 0 ? Role::kLanguage : Role::kEncoder;
    if (i > 0 && Chance(70)) spec.edges.push_back({names[i], "language"});
  }
  PlaceRanks(spec, counts);
  return spec;
}

// Lengths with padding: each divides by 2*cp, and together by tp more where the
// sequence is split.
std::vector<int64_t> RandomValues::SomeDocuments(const Module& language) {
  const int64_t unit = language.cp() > 1 ? 2 * language.cp() : 1;
  const int64_t whole =
      language.sequence_parallel() ? language.cp() * language.tp() : 1;
  std::vector<int64_t> lengths(Number(1, 5));
  int64_t total = 0;
  for (int64_t& length : lengths) {
    length = Chance(25) ? 0 : unit * Number(1, 3);
    total += length;
  }
  while (total == 0 || total % whole != 0) {
    lengths[Number(0, lengths.size() - 1)] += unit;
    total += unit;
  }
  return lengths;
}

BatchShape RandomValues::SomeShape(const Module& language) {
  BatchShape shape;
  if (Chance(50)) {
    const int64_t unit = (language.cp() > 1 ? 2 * language.cp() : 1) *
                         (language.sequence_parallel() ? language.tp() : 1);
    shape.seq_length = unit * Number(1, 4);
    shape.micro_batch_size = Number(1, 3);
    return shape;
  }
  shape.micro_batch_size = 1;
  shape.cu_seqlens_padded = {0};
  const bool padding_known = Chance(50);
  if (padding_known) shape.cu_seqlens = {0};
  for (int64_t length : SomeDocuments(language)) {
    shape.cu_seqlens_padded.push_back(shape.cu_seqlens_padded.back() + length);
    if (padding_known) {
      shape.cu_seqlens.push_back(shape.cu_seqlens.back() + Number(0, length));
    }
  }
  shape.seq_length = shape.cu_seqlens_padded.back();
  return shape;
}

Batch RandomValues::SomeBatch(const Layout& layout) {
  const Module& language = layout.language();
  const BatchShape shape = SomeShape(language);
  Batch batch;
  batch.seq_length = shape.seq_length;
  batch.micro_batch_size = shape.micro_batch_size;
  // Every lane has documents of its own; they only add up to the same.
  for (int64_t lane = 0; shape.thd() && lane < language.lane_count(); ++lane) {
    std::vector<int64_t> lengths;
    for (size_t d = 1; d < shape.cu_seqlens_padded.size(); ++d) {
      lengths.push_back(shape.cu_seqlens_padded[d] -
                        shape.cu_seqlens_padded[d - 1]);
    }
    Shuffle(lengths);
    std::vector<int64_t>& cu = batch.cu_seqlens_padded.emplace_back(1, 0);
    for (int64_t length : lengths) cu.push_back(cu.back() + length);
  }
  std::vector<int64_t> ids = {7, 8};
  int64_t id = 500;
  for (const char* name : {"images", "audio", "video"}) {
    if (Chance(40)) continue;
    batch.special_token_ids[name] = ++id;
    if (Chance(80)) ids.push_back(id);  // Else it has no token at all.
  }
  batch.samples.resize(language.lane_count() * batch.micro_batch_size);
  for (std::vector<int64_t>& sample : batch.samples) {
    while (static_cast<int64_t>(sample.size()) < batch.seq_length) {
      const int64_t left = batch.seq_length - sample.size();
      sample.insert(sample.end(), Number(1, std::min<int64_t>(left, 5)),
                    ids[Number(0, ids.size() - 1)]);
    }
  }
  AddCounts(layout, batch);
  return batch;
}

void RandomValues::AddCounts(const Layout& layout, Batch& batch) {
  int64_t text = batch.seq_length * static_cast<int64_t>(batch.samples.size());
  for (const auto& [name, id] : batch.special_token_ids) {
    int64_t count = 0;
    for (const std::vector<int64_t>& sample : batch.samples) {
      count += std::count(sample.begin(), sample.end(), id);
    }
    text -= count;
    if (Chance(50)) batch.counts[name] = count;
    const Module* const encoder = layout.FindModule(name);
    if (encoder == nullptr || Chance(50)) continue;
    std::vector<int64_t>& rows = batch.encoder_rows[name];
    rows.assign(encoder->lane_count(), 0);
    for (; count > 0; --count) ++rows[Number(0, rows.size() - 1)];
  }
  if (Chance(30)) batch.counts["text"] = text;
}

RandomValues::TableParts RandomValues::SomeTable() {
  TableParts parts;
  parts.destination_rows = Number(0, 40);
  const int64_t stride = Chance(50) ? 1 : Number(2, 5);
  for (int64_t column = 0; column < std::min(stride, parts.destination_rows);
       ++column) {
    for (int64_t row = column; row < parts.destination_rows;) {
      const int64_t left = (parts.destination_rows - 1 - row) / stride + 1;
      const int64_t count = Number(1, std::min<int64_t>(left, 6));
      parts.entries.push_back({0, 0, row, stride, count});
      row += count * stride;
    }
  }
  // Rows are given out in another order, so that the table permutes them; now
  // and then an entry continues its neighbour, and sources have rows to spare.
  if (Chance(70)) Shuffle(parts.entries);
  parts.source_rows.assign(Number(1, 4), 0);
  for (RowCopy& entry : parts.entries) {
    entry.source = static_cast<int32_t>(
        Number(-1, static_cast<int64_t>(parts.source_rows.size()) - 1));
    if (entry.source == RowCopy::kFill) continue;
    int64_t& rows = parts.source_rows[entry.source];
    if (Chance(30)) rows += Number(1, 3);
    entry.source_row = rows;
    rows += entry.row_count;
  }
  for (int64_t& rows : parts.source_rows) rows += Number(0, 2);
  return parts;
}

std::vector<RowCopy> RandomValues::Recut(const std::vector<RowCopy>& entries) {
  std::vector<RowCopy> pieces;
  for (RowCopy rest : entries) {
    while (rest.row_count > 0) {
      RowCopy piece = rest;
      piece.row_count = Number(1, rest.row_count);
      pieces.push_back(piece);
      rest.row_count -= piece.row_count;
      rest.destination_row += piece.row_count * rest.destination_stride;
      if (rest.source != RowCopy::kFill) rest.source_row += piece.row_count;
    }
  }
  Shuffle(pieces);
  return pieces;
}

void ForSeeds(int cases,
              const std::function<absl::Status(RandomValues&)>& check) {
  uint64_t first = 1, last = static_cast<uint64_t>(cases);
  if (const char* const seed = std::getenv("SHARDWRIGHT_SEED")) {
    ASSERT_TRUE(absl::SimpleAtoi(seed, &first)) << "SHARDWRIGHT_SEED=" << seed;
    last = first;
  }
  for (uint64_t seed = first; seed <= last; ++seed) {
    RandomValues random(seed);
    const absl::Status status = check(random);
    ASSERT_TRUE(status.ok())
        << status << "\nagain with SHARDWRIGHT_SEED=" << seed;
  }
}

}  // namespace shardwright
