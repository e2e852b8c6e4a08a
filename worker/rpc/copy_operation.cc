#include "worker/rpc/copy_operation.h"

#include <algorithm>
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
  RETURN_IF_ERROR(
      CheckElements(message.element_bytes(), operation.row_bytes()));
  if (operation.in_regions_) {
    RETURN_IF_ERROR(CheckRegions(message.element_bytes(), message.fill_value(),
                                 operation.sources_, "the destination",
                                 operation.destination_));
  }
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
  const bool writes_sources = direction_ == Direction::kAdjoint;
  for (int i = 0; i < message_->sources_size(); ++i) {
    ASSIGN_OR_RETURN(sources_.emplace_back(),
                     tensors_.Find(absl::StrCat("source ", i),
                                   message_->sources(i), writes_sources));
  }
  ASSIGN_OR_RETURN(destination_,
                   tensors_.Find("the destination", message_->destination(),
                                 !writes_sources));
  return absl::OkStatus();
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

}  // namespace shardwright
