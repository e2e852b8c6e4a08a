#include "proto/plan/batch.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/plan/copy_table.h"

namespace shardwright {
namespace {

// "S=6 must divide by 2*cp = 4", with the next S that does. `context` goes
// before it.
void CheckDivides(absl::string_view name, int64_t length,
                  absl::string_view factor_name, int64_t factor,
                  std::string field, Problems& problems,
                  absl::string_view context = "") {
  if (length % factor == 0) return;
  const int64_t next = (length / factor + 1) * factor;
  AddProblem(problems, std::move(field),
             absl::StrCat(context, name, "=", length, " must divide by ",
                          factor_name, " = ", factor),
             absl::StrCat("next valid ", name, " is ", next, " (+",
                          next - length, ")"));
}

void CheckDenseLength(const Module& module, int64_t seq_length,
                      const std::string& field, Problems& problems) {
  const bool sp = module.sequence_parallel();
  if (module.cp() > 1 && sp) {
    CheckDivides("S", seq_length, "2*cp*tp", 2 * module.cp() * module.tp(),
                 field, problems);
  } else if (module.cp() > 1) {
    CheckDivides("S", seq_length, "2*cp", 2 * module.cp(), field, problems);
  } else if (sp) {
    CheckDivides("S", seq_length, "tp", module.tp(), field, problems);
  }
}

// `cu` begins at 0, does not fall, and ends at `total`, unless that is nothing.
bool CheckCumulative(const std::vector<int64_t>& cu, const int64_t* total,
                     const std::string& field, Problems& problems) {
  const size_t before = problems.size();
  if (cu.size() < 2) {
    AddProblem(problems, field,
               "must have at least two entries, 0 and the total");
    return false;
  }
  if (cu[0] != 0) {
    AddProblem(problems, absl::StrCat(field, "[0]"),
               absl::StrCat("must be 0 and is ", cu[0]));
  }
  for (size_t i = 1; i < cu.size(); ++i) {
    if (cu[i] < cu[i - 1]) {
      AddProblem(problems, absl::StrCat(field, "[", i, "]"),
                 absl::StrCat("must not fall, and sequence ", i - 1,
                              " goes from ", cu[i - 1], " to ", cu[i]));
    }
  }
  if (total != nullptr && cu.back() != *total) {
    AddProblem(problems, absl::StrCat(field, "[", cu.size() - 1, "]"),
               absl::StrCat("ends at ", cu.back(), " but the pack has ", *total,
                            " tokens"),
               "the last entry is the total, padding included");
  }
  return problems.size() == before;
}

void CheckCuSeqlensPadded(const Module& module, int64_t seq_length,
                          const std::vector<int64_t>& cu,
                          const std::string& field, Problems& problems) {
  if (!CheckCumulative(cu, &seq_length, field, problems)) return;
  const int64_t factor = 2 * module.cp();
  bool whole = true;
  for (size_t i = 1; module.cp() > 1 && i < cu.size(); ++i) {
    const int64_t length = cu[i] - cu[i - 1];
    if (length % factor == 0) continue;
    whole = false;
    CheckDivides("length", length, "2*cp", factor,
                 absl::StrCat(field, "[", i, "]"), problems,
                 absl::StrCat("sequence ", i - 1, ": "));
  }
  if (whole && module.sequence_parallel()) {
    CheckDivides("S/cp", seq_length / module.cp(), "tp", module.tp(),
                 absl::StrCat(field, "[", cu.size() - 1, "]"), problems);
  }
}

void CheckCuSeqlens(const BatchShape& shape, const std::string& field,
                    Problems& problems) {
  const std::vector<int64_t>& cu = shape.cu_seqlens;
  const std::vector<int64_t>& padded = shape.cu_seqlens_padded;
  if (cu.size() != padded.size()) {
    AddProblem(problems, field,
               absl::StrCat("has ", cu.size(),
                            " entries and cu_seqlens_padded ", padded.size()));
    return;
  }
  if (!CheckCumulative(cu, nullptr, field, problems)) return;
  for (size_t i = 1; i < cu.size(); ++i) {
    const int64_t tokens = cu[i] - cu[i - 1];
    const int64_t room = padded[i] - padded[i - 1];
    if (tokens > room) {
      AddProblem(problems, absl::StrCat(field, "[", i, "]"),
                 absl::StrCat("sequence ", i - 1, " has ", tokens,
                              " tokens and with padding only ", room));
    }
  }
}

// The sizes, which every lane has alike. False: nothing can be said of the
// rest.
bool CheckSizes(const Module& module, int64_t seq_length,
                int64_t micro_batch_size, bool thd, const std::string& prefix,
                Problems& problems) {
  const size_t before = problems.size();
  if (seq_length < 1 || seq_length > kSeqLengthMax) {
    AddProblem(
        problems, absl::StrCat(prefix, "seq_length"),
        absl::StrCat("S=", seq_length, " is not in [1, ", kSeqLengthMax, "]"));
  }
  if (micro_batch_size < 1 || micro_batch_size > kMicroBatchSizeMax) {
    AddProblem(problems, absl::StrCat(prefix, "micro_batch_size"),
               absl::StrCat("B=", micro_batch_size, " is not in [1, ",
                            kMicroBatchSizeMax, "]"));
  }
  if (problems.size() > before) return false;
  if (seq_length * micro_batch_size > CopyTable::kRowsMax) {
    AddProblem(problems, absl::StrCat(prefix, "seq_length"),
               absl::StrCat("S*B = ", seq_length, "*", micro_batch_size,
                            " rows are above ", CopyTable::kRowsMax));
  }
  if (thd && micro_batch_size != 1) {
    AddProblem(problems, absl::StrCat(prefix, "micro_batch_size"),
               absl::StrCat("B=", micro_batch_size,
                            " must be 1 with cu_seqlens_padded (THD)"),
               "pack the samples into one");
  }
  if (!thd) {
    CheckDenseLength(module, seq_length, absl::StrCat(prefix, "seq_length"),
                     problems);
  }
  return true;
}

// "counts.images"; an endless name is cut.
std::string FieldOf(absl::string_view map, absl::string_view name) {
  return absl::StrCat(map, ".", name.substr(0, 80));
}

// False: there are so many names that the rest would cost too much.
bool CheckNameCounts(const Batch& batch, Problems& problems) {
  const std::pair<absl::string_view, size_t> counts[] = {
      {"special_token_ids", batch.special_token_ids.size()},
      {"encoder_rows", batch.encoder_rows.size()},
      {"counts", batch.counts.size()}};
  for (const auto& [field, count] : counts) {
    // One of the sources is text, which may have a count.
    const size_t limit = CopyTable::kSourcesMax - (field == "counts" ? 0 : 1);
    if (count <= limit) continue;
    AddProblem(problems, std::string(field),
               absl::StrCat(count, " modalities are above ", limit));
  }
  return problems.empty();
}

int64_t CountTokens(const Batch& batch, int64_t id) {
  int64_t count = 0;
  for (const std::vector<int64_t>& sample : batch.samples) {
    count += std::count(sample.begin(), sample.end(), id);
  }
  return count;
}

void CheckSamples(const Layout& layout, const Batch& batch,
                  Problems& problems) {
  const int64_t lanes = layout.language().lane_count();
  const int64_t samples = static_cast<int64_t>(batch.samples.size());
  if (samples != lanes * batch.micro_batch_size) {
    AddProblem(problems, "samples",
               absl::StrCat("there are ", samples,
                            " samples and must be lanes*B = ", lanes, "*",
                            batch.micro_batch_size, " = ",
                            lanes * batch.micro_batch_size));
  }
  for (size_t i = 0; i < batch.samples.size(); ++i) {
    const int64_t length = static_cast<int64_t>(batch.samples[i].size());
    if (length != batch.seq_length) {
      AddProblem(problems, absl::StrCat("samples[", i, "].input_ids"),
                 absl::StrCat("has ", length,
                              " ids and must have S=", batch.seq_length));
    }
  }
}

void CheckSpecialTokenIds(const Batch& batch, Problems& problems) {
  const auto& ids = batch.special_token_ids;
  for (auto a = ids.begin(); a != ids.end(); ++a) {
    const std::string field = FieldOf("special_token_ids", a->first);
    if (a->first == "text" || a->first.empty()) {
      AddProblem(problems, field,
                 absl::StrCat(QuoteName(a->first), " cannot name a modality"),
                 "text is every id that is not special");
    }
    const auto same = std::find_if(
        ids.begin(), a, [&](const auto& b) { return b.second == a->second; });
    if (same != a) {
      AddProblem(
          problems, field,
          absl::StrCat(QuoteName(same->first), " and ", QuoteName(a->first),
                       " have the same special token id ", a->second));
    }
  }
}

// The count of a modality's tokens; nothing, and a problem, if it is unknown.
std::optional<int64_t> FindCount(const Batch& batch, const std::string& name,
                                 const std::string& field, Problems& problems) {
  const auto id = batch.special_token_ids.find(name);
  if (id != batch.special_token_ids.end())
    return CountTokens(batch, id->second);
  std::vector<std::string> names;
  for (const auto& [known, unused] : batch.special_token_ids) {
    names.push_back(known);
  }
  AddProblem(
      problems, field,
      absl::StrCat(QuoteName(name), " has no entry in special_token_ids"),
      DidYouMean(name, names));
  return std::nullopt;
}

int64_t CountText(const Batch& batch) {
  int64_t count = 0;
  for (const std::vector<int64_t>& sample : batch.samples) {
    count += static_cast<int64_t>(sample.size());
  }
  for (const auto& [unused, id] : batch.special_token_ids) {
    count -= CountTokens(batch, id);
  }
  return count;
}

void CheckCounts(const Layout& layout, const Batch& batch, Problems& problems) {
  for (const auto& [name, rows] : batch.counts) {
    const std::string field = FieldOf("counts", name);
    const std::optional<int64_t> tokens =
        name == "text" ? CountText(batch)
                       : FindCount(batch, name, field, problems);
    if (tokens.has_value() && *tokens != rows) {
      AddProblem(
          problems, field,
          absl::StrCat(QuoteName(name), " has ", rows,
                       " rows but input_ids have ", *tokens, " of its tokens"));
    }
  }
  for (const auto& [name, rows] : batch.encoder_rows) {
    const std::string field = FieldOf("encoder_rows", name);
    const std::optional<int64_t> tokens =
        FindCount(batch, name, field, problems);
    if (std::any_of(rows.begin(), rows.end(), [](int64_t n) {
          return n < 0 || n > CopyTable::kRowsMax;
        })) {
      AddProblem(problems, field, "a count is negative or too large");
      continue;
    }
    const int64_t total = std::accumulate(rows.begin(), rows.end(), int64_t{0});
    if (tokens.has_value() && total != *tokens) {
      AddProblem(problems, field,
                 absl::StrCat(QuoteName(name), " has ", total,
                              " rows over all lanes but input_ids have ",
                              *tokens, " of its tokens"));
    }
    const Module* const encoder = layout.FindModule(name);
    if (encoder != nullptr &&
        static_cast<int64_t>(rows.size()) != encoder->lane_count()) {
      AddProblem(
          problems, field,
          absl::StrCat("has ", rows.size(), " entries and ", QuoteName(name),
                       " has ", encoder->lane_count(), " lanes"));
    }
  }
}

}  // namespace

BatchShape Batch::ShapeOf(int64_t lane) const {
  BatchShape shape;
  shape.seq_length = seq_length;
  shape.micro_batch_size = micro_batch_size;
  if (!cu_seqlens_padded.empty()) {
    shape.cu_seqlens_padded = cu_seqlens_padded[lane];
  }
  return shape;
}

Problems CheckShape(const Module& module, const BatchShape& shape,
                    const std::string& prefix) {
  Problems problems;
  if (!CheckSizes(module, shape.seq_length, shape.micro_batch_size, shape.thd(),
                  prefix, problems)) {
    return problems;
  }
  if (shape.thd()) {
    CheckCuSeqlensPadded(module, shape.seq_length, shape.cu_seqlens_padded,
                         absl::StrCat(prefix, "cu_seqlens_padded"), problems);
  }
  if (!shape.cu_seqlens.empty() && problems.empty()) {
    CheckCuSeqlens(shape, absl::StrCat(prefix, "cu_seqlens"), problems);
  }
  return problems;
}

Problems CheckBatch(const Layout& layout, const Batch& batch) {
  const Module& language = layout.language();
  const bool thd = !batch.cu_seqlens_padded.empty();
  Problems problems;
  if (!CheckNameCounts(batch, problems)) return problems;
  CheckSpecialTokenIds(batch, problems);
  if (!CheckSizes(language, batch.seq_length, batch.micro_batch_size, thd, "",
                  problems)) {
    return problems;
  }
  CheckSamples(layout, batch, problems);
  const int64_t lists = static_cast<int64_t>(batch.cu_seqlens_padded.size());
  if (thd && lists != language.lane_count()) {
    AddProblem(problems, "cu_seqlens_padded",
               absl::StrCat("there are ", lists,
                            " lists and must be one a language "
                            "lane, of which there are ",
                            language.lane_count()));
  }
  for (int64_t lane = 0; lane < lists; ++lane) {
    CheckCuSeqlensPadded(
        language, batch.seq_length, batch.cu_seqlens_padded[lane],
        absl::StrCat("cu_seqlens_padded[", lane, "]"), problems);
  }
  CheckCounts(layout, batch, problems);
  return problems;
}

}  // namespace shardwright
