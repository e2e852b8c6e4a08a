#include "worker/rpc/copy_operation.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

absl::Status InvalidTensor(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR", message);
}

absl::StatusOr<Bytes> FindInSegment(const std::string& name,
                                    const v1::SegmentRange& range,
                                    const SessionMemory& memory) {
  const int64_t segment_count =
      memory == nullptr ? 0 : static_cast<int64_t>(memory->size());
  if (range.index() < 0 || range.index() >= segment_count) {
    return InvalidTensor(absl::StrCat(name, " is in segment ", range.index(),
                                      ", but the session has ", segment_count));
  }
  const Bytes segment = (*memory)[range.index()].bytes();
  const int64_t segment_bytes = static_cast<int64_t>(segment.size());
  if (range.offset_bytes() < 0 || range.size_bytes() < 0 ||
      range.offset_bytes() > segment_bytes ||
      range.size_bytes() > segment_bytes - range.offset_bytes()) {
    return InvalidTensor(absl::StrCat(name, " has ", range.size_bytes(),
                                      " bytes at offset ", range.offset_bytes(),
                                      ", but segment ", range.index(), " has ",
                                      segment_bytes, " bytes"));
  }
  return segment.subspan(range.offset_bytes(), range.size_bytes());
}

}  // namespace

absl::StatusOr<CopyOperation> CopyOperation::Create(
    const v1::CopyOperation& message, SessionMemory memory,
    CopyOutputs outputs) {
  CopyOperation operation(message, std::move(memory));
  ASSIGN_OR_RETURN(operation.table_, CopyTableFromProto(message.table()));
  const bool writes_sources = outputs == CopyOutputs::kSources;
  for (int i = 0; i < message.sources_size(); ++i) {
    ASSIGN_OR_RETURN(operation.sources_.emplace_back(),
                     operation.Find(absl::StrCat("source ", i),
                                    message.sources(i), writes_sources));
  }
  ASSIGN_OR_RETURN(operation.destination_,
                   operation.Find("the destination", message.destination(),
                                  !writes_sources));
  RETURN_IF_ERROR(
      CheckCopies(operation.table_, operation.row_bytes(),
                  std::vector<ConstBytes>(operation.sources_.begin(),
                                          operation.sources_.end()),
                  operation.destination_, operation.fill_value(),
                  writes_sources ? Direction::kAdjoint : Direction::kForward));
  return operation;
}

absl::StatusOr<Bytes> CopyOperation::Find(const std::string& name,
                                          const v1::Tensor& tensor,
                                          bool is_output) {
  if (is_output) outputs_bytes_.emplace_back();
  if (tensor.has_segment()) {
    return FindInSegment(name, tensor.segment(), memory_);
  }
  const std::string& bytes = tensor.inline_data();
  if (!tensor.has_inline_data()) {
    return InvalidTensor(
        absl::StrCat(name, " has neither `segment` nor `inline_data`"));
  }
  if (bytes.size() > kInlineBytesMax) {
    return InvalidTensor(
        absl::StrCat(name, " has ", bytes.size(), " bytes inline, but at most ",
                     kInlineBytesMax, " are allowed; use shared memory"));
  }
  if (is_output) {
    outputs_bytes_.back() = bytes;
    return absl::MakeSpan(outputs_bytes_.back());
  }
  // Only read, see sources() and destination().
  return Bytes(const_cast<char*>(bytes.data()), bytes.size());
}

int64_t CopyOperation::copied_bytes() const {
  int64_t rows = 0;
  for (const RowCopy& entry : table_.entries()) {
    if (entry.source != RowCopy::kFill) rows += entry.row_count;
  }
  return rows * row_bytes();
}

std::vector<std::string> CopyOperation::TakeInlineOutputs() {
  return {std::make_move_iterator(outputs_bytes_.begin()),
          std::make_move_iterator(outputs_bytes_.end())};
}

}  // namespace shardwright
