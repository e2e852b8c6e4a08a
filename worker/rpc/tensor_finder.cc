#include "worker/rpc/tensor_finder.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
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

absl::StatusOr<Bytes> TensorFinder::Find(const std::string& name,
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
    return FindInSegment(name, tensor.segment(), session_);
  }
  if (!tensor.has_inline_data()) {
    return InvalidTensor(absl::StrCat(
        name, " has neither `segment`, `inline_data` nor `region`"));
  }
  return FindInline(name, tensor.inline_data(), is_output);
}

absl::StatusOr<Bytes> TensorFinder::FindInline(const std::string& name,
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

std::vector<std::string> TensorFinder::TakeInlineOutputs() {
  return {std::make_move_iterator(outputs_bytes_.begin()),
          std::make_move_iterator(outputs_bytes_.end())};
}

absl::Status CheckElements(int64_t element_bytes, int64_t row_bytes) {
  if (element_bytes < 0 || element_bytes > kElementBytesMax ||
      (element_bytes != 0 && row_bytes % element_bytes != 0)) {
    return InvalidTensor(absl::StrCat(
        "element_bytes is ", element_bytes, ", but must be at most ",
        kElementBytesMax, " and divide row_bytes ", row_bytes));
  }
  return absl::OkStatus();
}

absl::Status CheckRegions(int64_t element_bytes, const std::string& fill_value,
                          absl::Span<const Bytes> sources,
                          const std::string& destination_name,
                          Bytes destination) {
  RETURN_IF_ERROR(CheckFillOfRegions(fill_value));
  if (element_bytes == 0) return absl::OkStatus();
  const auto check = [element_bytes](const std::string& name,
                                     ConstBytes bytes) {
    const auto address = reinterpret_cast<uint64_t>(bytes.data());
    if (bytes.empty() || address % element_bytes == 0) return absl::OkStatus();
    return InvalidTensor(absl::StrCat(
        name, " is ", address % element_bytes,
        " bytes behind a multiple of its element_bytes ", element_bytes));
  };
  for (size_t k = 0; k < sources.size(); ++k) {
    RETURN_IF_ERROR(check(absl::StrCat("source ", k), sources[k]));
  }
  return check(destination_name, destination);
}

}  // namespace shardwright
