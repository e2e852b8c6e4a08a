#include "worker/rpc/region_bridge_engine.h"

#include "proto/status/status_macros.h"

namespace shardwright {

absl::StatusOr<Bytes> RegionBridgeEngine::Staging(int64_t byte_count) {
  if (byte_count == 0) return Bytes();
  if (staging_ == nullptr ||
      static_cast<int64_t>(staging_->bytes().size()) < byte_count) {
    staging_.reset();  // First: there may be no room for both.
    ASSIGN_OR_RETURN(staging_, device_.Allocate(byte_count));
  }
  return staging_->bytes();
}

absl::Status RegionBridgeEngine::Copy(const CopyTable& table,
                                      Direction direction, int64_t row_bytes,
                                      int64_t element_bytes,
                                      absl::Span<const Bytes> sources,
                                      Bytes destination,
                                      ConstBytes fill_value) {
  RegionCopy copy;
  copy.table = &table;
  copy.direction = direction;
  copy.row_bytes = row_bytes;
  copy.element_bytes = element_bytes;
  copy.sources = {sources.begin(), sources.end()};
  copy.destination = destination;
  copy.fill_value = fill_value;
  return regions_.Run([&] { return regions_.Start({&copy, 1}); }, caller_);
}

}  // namespace shardwright
