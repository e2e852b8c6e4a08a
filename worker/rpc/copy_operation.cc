#include "worker/rpc/copy_operation.h"

#include <algorithm>
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
                                    const Session* session) {
  const int64_t segment_count =
      session == nullptr ? 0 : static_cast<int64_t>(session->segments().size());
  if (range.index() < 0 || range.index() >= segment_count) {
    return InvalidTensor(absl::StrCat(name, " is in segment ", range.index(),
                                      ", but the session has ", segment_count));
  }
  const Bytes segment = session->segments()[range.index()].bytes();
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

bool IsEmpty(const v1::Tensor& tensor) {
  return (tensor.has_inline_data() && tensor.inline_data().empty()) ||
         (tensor.has_segment() && tensor.segment().size_bytes() == 0);
}

// What the kernel can do; the host does more.
absl::Status CheckFillOfRegions(const std::string& fill) {
  switch (fill.size()) {
    case 0:
    case 1:
    case 2:
    case 4:
    case 8:
    case 16:
      return absl::OkStatus();
  }
  return InvalidTensor(
      absl::StrCat("the fill value has ", fill.size(),
                   " bytes, but must have 1, 2, 4, 8 or 16 for regions"));
}

}  // namespace

bool UsesRegions(const v1::CopyOperation& message) {
  return message.destination().has_region() ||
         std::any_of(message.sources().begin(), message.sources().end(),
                     [](const v1::Tensor& t) { return t.has_region(); });
}

absl::StatusOr<CopyOperation> CopyOperation::Create(
    const v1::CopyOperation& message, std::shared_ptr<Session> session,
    CopyOutputs outputs) {
  CopyOperation operation(message, std::move(session), outputs);
  RETURN_IF_ERROR(operation.FindTable());
  RETURN_IF_ERROR(operation.FindTensors());
  RETURN_IF_ERROR(CheckCopies(
      operation.table_, operation.row_bytes(),
      std::vector<ConstBytes>(operation.sources_.begin(),
                              operation.sources_.end()),
      operation.destination_, operation.fill_value(), operation.direction_));
  RETURN_IF_ERROR(operation.CheckElements());
  if (message.has_plan_table() && operation.session_ != nullptr) {
    ASSIGN_OR_RETURN(operation.table_,
                     operation.session_->tables().Keep(message.plan_table(),
                                                       operation.table_));
  }
  return operation;
}

absl::Status CopyOperation::FindTable() {
  if (message_->has_table() || !message_->has_plan_table()) {
    ASSIGN_OR_RETURN(table_, CopyTableFromProto(message_->table()));
    return absl::OkStatus();
  }
  if (session_ == nullptr) {
    return InvalidTensor("`plan_table` without `table` needs a session");
  }
  ASSIGN_OR_RETURN(table_, session_->tables().Find(message_->plan_table()));
  return absl::OkStatus();
}

absl::Status CopyOperation::FindTensors() {
  in_regions_ = UsesRegions(*message_);
  const bool writes_sources = direction_ == Direction::kAdjoint;
  for (int i = 0; i < message_->sources_size(); ++i) {
    ASSIGN_OR_RETURN(
        sources_.emplace_back(),
        Find(absl::StrCat("source ", i), message_->sources(i), writes_sources));
  }
  ASSIGN_OR_RETURN(
      destination_,
      Find("the destination", message_->destination(), !writes_sources));
  return absl::OkStatus();
}

absl::StatusOr<Bytes> CopyOperation::Find(const std::string& name,
                                          const v1::Tensor& tensor,
                                          bool is_output) {
  if (is_output) outputs_bytes_.emplace_back();
  if (tensor.has_region()) {
    if (session_ == nullptr || session_->regions() == nullptr) {
      return InvalidTensor(
          absl::StrCat(name, " is in a region, but the session has no GPU"));
    }
    return session_->regions()->Find(name, tensor.region());
  }
  if (in_regions_ && !IsEmpty(tensor)) {
    return InvalidTensor(absl::StrCat(
        name,
        " is in host memory, but another tensor of the operation in a region; "
        "all must be in one of the two"));
  }
  if (tensor.has_segment()) {
    return FindInSegment(name, tensor.segment(), session_.get());
  }
  if (!tensor.has_inline_data()) {
    return InvalidTensor(absl::StrCat(
        name, " has neither `segment`, `inline_data` nor `region`"));
  }
  return FindInline(name, tensor.inline_data(), is_output);
}

absl::StatusOr<Bytes> CopyOperation::FindInline(const std::string& name,
                                                const std::string& bytes,
                                                bool is_output) {
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

absl::Status CopyOperation::CheckElements() const {
  const int64_t element = message_->element_bytes();
  if (element < 0 || element > kElementBytesMax ||
      (element != 0 && row_bytes() % element != 0)) {
    return InvalidTensor(
        absl::StrCat("element_bytes is ", element, ", but must be at most ",
                     kElementBytesMax, " and divide row_bytes ", row_bytes()));
  }
  if (!in_regions_) return absl::OkStatus();
  RETURN_IF_ERROR(CheckFillOfRegions(message_->fill_value()));
  if (element == 0) return absl::OkStatus();
  const auto check = [element](const std::string& name, ConstBytes bytes) {
    const auto address = reinterpret_cast<uint64_t>(bytes.data());
    if (bytes.empty() || address % element == 0) return absl::OkStatus();
    return InvalidTensor(absl::StrCat(
        name, " is ", address % element,
        " bytes behind a multiple of its element_bytes ", element));
  };
  for (size_t k = 0; k < sources_.size(); ++k) {
    RETURN_IF_ERROR(check(absl::StrCat("source ", k), sources_[k]));
  }
  return check("the destination", destination_);
}

RegionCopy CopyOperation::AsRegionCopy() const {
  RegionCopy copy;
  copy.table = &table_;
  copy.direction = direction_;
  copy.row_bytes = row_bytes();
  copy.element_bytes = std::max<int64_t>(1, message_->element_bytes());
  copy.sources = sources_;
  copy.destination = destination_;
  copy.fill_value = fill_value();
  return copy;
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
