#include "client/native/batch.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "client/native/call.h"
#include "proto/plan/layout.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

absl::Status CheckName(absl::string_view field, const char* name,
                       bool is_taken) {
  RETURN_IF_ERROR(CheckNotNull({{absl::StrCat(field, ".name"), name}}));
  if (!is_taken) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_BATCH",
               absl::StrCat(field, ": '", name, "' is named twice"));
}

absl::Status AddNamedValues(absl::string_view field, const sw_named_value* in,
                            int64_t count,
                            google::protobuf::Map<std::string, int64_t>& out) {
  RETURN_IF_ERROR(CheckArray(field, in, count, kModuleCountMax));
  for (int64_t i = 0; i < count; ++i) {
    const char* const name = in[i].name;
    RETURN_IF_ERROR(
        CheckName(field, name, name != nullptr && out.count(name) > 0));
    out[name] = in[i].value;
  }
  return absl::OkStatus();
}

absl::Status AddEncoderRows(const sw_batch& in, v1::Batch& batch) {
  constexpr absl::string_view kField = "encoder_rows";
  RETURN_IF_ERROR(CheckArray(kField, in.encoder_rows, in.encoder_rows_count,
                             kModuleCountMax));
  auto& out = *batch.mutable_encoder_rows();
  for (int64_t i = 0; i < in.encoder_rows_count; ++i) {
    const sw_encoder_rows& from = in.encoder_rows[i];
    RETURN_IF_ERROR(CheckName(
        kField, from.name, from.name != nullptr && out.count(from.name) > 0));
    RETURN_IF_ERROR(CheckArray("encoder_rows.rows", from.rows, from.lane_count,
                               kBatchCountMax));
    out[from.name].mutable_rows()->Add(from.rows, from.rows + from.lane_count);
  }
  return absl::OkStatus();
}

absl::Status AddSamples(const sw_batch& in, v1::Batch& batch) {
  RETURN_IF_ERROR(CheckArray("sample_lengths", in.sample_lengths,
                             in.sample_count, kBatchCountMax));
  const int64_t* ids = in.input_ids;
  for (int64_t i = 0; i < in.sample_count; ++i) {
    const int64_t length = in.sample_lengths[i];
    RETURN_IF_ERROR(CheckArray("input_ids", ids, length, kBatchCountMax));
    batch.add_samples()->mutable_input_ids()->Add(ids, ids + length);
    ids += length;
  }
  return absl::OkStatus();
}

absl::Status AddCuSeqlens(const sw_batch& in, v1::Batch& batch) {
  const int64_t* offsets = in.cu_seqlens_padded;
  RETURN_IF_ERROR(CheckArray("cu_seqlens_padded_counts",
                             in.cu_seqlens_padded_counts,
                             in.cu_seqlens_padded_lane_count, kBatchCountMax));
  for (int64_t lane = 0; lane < in.cu_seqlens_padded_lane_count; ++lane) {
    const int64_t count = in.cu_seqlens_padded_counts[lane];
    RETURN_IF_ERROR(
        CheckArray("cu_seqlens_padded", offsets, count, kBatchCountMax));
    batch.add_cu_seqlens_padded()->mutable_offsets()->Add(offsets,
                                                          offsets + count);
    offsets += count;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::Batch> BatchFrom(const sw_batch& in) {
  v1::Batch batch;
  batch.set_micro_batch_size(in.micro_batch_size);
  batch.set_seq_length(in.seq_length);
  RETURN_IF_ERROR(AddSamples(in, batch));
  RETURN_IF_ERROR(AddCuSeqlens(in, batch));
  RETURN_IF_ERROR(AddNamedValues("special_token_ids", in.special_token_ids,
                                 in.special_token_id_count,
                                 *batch.mutable_special_token_ids()));
  RETURN_IF_ERROR(AddNamedValues("counts", in.counts, in.count_count,
                                 *batch.mutable_counts()));
  RETURN_IF_ERROR(AddEncoderRows(in, batch));
  return batch;
}

}  // namespace shardwright
