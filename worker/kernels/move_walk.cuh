// Which bytes a warp moves: walks the moves of a table within one range of its
// bytes, and cuts them into pieces. The bytes of a table are numbered as if the
// rows of all its moves lay one after another.

#ifndef WORKER_KERNELS_MOVE_WALK_CUH_
#define WORKER_KERNELS_MOVE_WALK_CUH_

#include <cstdint>

#include "worker/kernels/copy_rows.h"

namespace shardwright {

constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr int kLanes = 32;

// `count` runs of `bytes` bytes each, which are whole rows if there are
// several.
struct Piece {
  const char* from;  // Null: the fill value.
  char* to;
  uint32_t bytes;
  uint32_t count;
  int64_t from_pitch;
  int64_t to_pitch;
  uint32_t fill_phase;  // Into RowCopyArguments::fill, at `to`.
};

// All members are the same in all lanes of a warp, but for `window_`.
class MoveWalk {
 public:
  // Bytes [begin, end) of the table of `copy`. All lanes must call.
  __device__ MoveWalk(const RowCopyArguments& copy, int64_t begin, int64_t end)
      : copy_(copy),
        moves_(reinterpret_cast<const RowMove*>(copy.table + 1)),
        move_count_(copy.table->move_count),
        at_(begin),
        end_(end) {
    from_pitch_ = copy.table->from_stride * copy.row_bytes;
    to_pitch_ = copy.table->to_stride * copy.row_bytes;
    contiguous_ = from_pitch_ == copy.row_bytes && to_pitch_ == copy.row_bytes;
    if (Done()) return;
    const int64_t row = begin / copy.row_bytes;
    Find(row);
    EnterMove();
    row_ = row - first_row_;
    byte_ = begin - row * copy.row_bytes;
  }

  __device__ bool Done() const { return at_ >= end_; }

  // The next bytes: at most `limit`, and at most kLanes rows. REQUIRES:
  // !Done(). All lanes must call.
  __device__ Piece Next(uint32_t limit) {
    if (contiguous_ ? move_end_ == at_ : row_ == rows_) NextMove();
    const int64_t left = min(end_ - at_, static_cast<int64_t>(limit));
    Piece piece;
    if (contiguous_) {
      const int64_t offset = row_ * copy_.row_bytes + byte_;
      piece = At(offset, offset);
      piece.bytes = static_cast<uint32_t>(min(left, move_end_ - at_));
      byte_ += piece.bytes;
    } else {
      piece = At(row_ * from_pitch_ + byte_, row_ * to_pitch_ + byte_);
      if (byte_ == 0 && copy_.row_bytes <= left) {
        piece.bytes = static_cast<uint32_t>(copy_.row_bytes);
        piece.count = static_cast<uint32_t>(min(
            min(rows_ - row_, static_cast<int64_t>(kLanes)),
            static_cast<int64_t>(static_cast<uint32_t>(left) / piece.bytes)));
        row_ += piece.count;
      } else {
        piece.bytes = static_cast<uint32_t>(min(left, copy_.row_bytes - byte_));
        byte_ += piece.bytes;
        if (byte_ == copy_.row_bytes) {
          byte_ = 0;
          ++row_;
        }
      }
    }
    at_ += static_cast<int64_t>(piece.bytes) * piece.count;
    return piece;
  }

 private:
  // Makes the last move that begins at or before `row` the current one. Each
  // step asks one move a lane, so that one of 1,024 is found by reading twice,
  // one read after the other, and one of the first 32 by reading once.
  __device__ void Find(int64_t row) {
    LoadWindow();
    int64_t low = 0, high = move_count_;  // It is in [low, high).
    while (high - low > kLanes) {
      const int64_t step = (high - low + kLanes - 1) / kLanes;
      const int64_t mine = low + threadIdx.x % kLanes * step;
      low += CountBefore(mine < high ? moves_[mine].first_row : row + 1, row) *
             step;
      high = min(high, low + step);
    }
    index_ = low;
    if (low > 0) LoadWindow();
    index_ += CountBefore(
        low + threadIdx.x % kLanes < high ? window_.first_row : row + 1, row);
  }

  // How many lanes but the first begin at or before `row`; theirs ascend.
  __device__ static int CountBefore(int64_t first_row, int64_t row) {
    return __popc(__ballot_sync(kAllLanes, first_row <= row)) - 1;
  }

  // The next moves, one in each lane, and the one behind them.
  __device__ void LoadWindow() {
    window_begin_ = index_;
    const int64_t mine =
        min(index_ + static_cast<int64_t>(threadIdx.x % kLanes), move_count_);
    window_ = moves_[mine];
  }

  __device__ void EnterMove() {
    // The end of a move is the beginning of the next, so the last lane's has
    // to wait for the next window.
    if (index_ - window_begin_ == kLanes - 1) LoadWindow();
    const int lane = static_cast<int>(index_ - window_begin_);
    first_row_ = __shfl_sync(kAllLanes, window_.first_row, lane);
    rows_ = __shfl_sync(kAllLanes, window_.first_row, lane + 1) - first_row_;
    const int64_t from_row = __shfl_sync(kAllLanes, window_.from_row, lane);
    const int64_t to_row = __shfl_sync(kAllLanes, window_.to_row, lane);
    const int32_t from = __shfl_sync(kAllLanes, window_.from, lane);
    const int32_t to = __shfl_sync(kAllLanes, window_.to, lane);
    from_ = from == RowMove::kFill
                ? nullptr
                : copy_.buffers[from] + from_row * copy_.row_bytes;
    to_ = copy_.buffers[to] + to_row * copy_.row_bytes;
    move_end_ = (first_row_ + rows_) * copy_.row_bytes;
  }

  __device__ void NextMove() {
    ++index_;
    EnterMove();
    row_ = 0;
    byte_ = 0;
  }

  __device__ Piece At(int64_t from_offset, int64_t to_offset) const {
    return {from_ == nullptr ? nullptr : from_ + from_offset,
            to_ + to_offset,
            0,
            1,
            from_pitch_,
            to_pitch_,
            static_cast<uint32_t>(byte_)};
  }

  const RowCopyArguments& copy_;
  const RowMove* const moves_;
  const int64_t move_count_;
  int64_t from_pitch_, to_pitch_;
  bool contiguous_;  // Rows lie side by side: a move is one run of bytes.

  int64_t at_;  // Next byte,
  const int64_t end_;
  int64_t row_ = 0;   // which is in this row of the move,
  int64_t byte_ = 0;  // at this byte (contiguous: from row_'s start).

  int64_t index_ = 0;  // Of the move.
  int64_t window_begin_ = 0;
  RowMove window_;  // moves_[window_begin_ + lane].
  int64_t first_row_ = 0, rows_ = 0, move_end_ = 0;
  const char* from_ = nullptr;
  char* to_ = nullptr;
};

}  // namespace shardwright

#endif  // WORKER_KERNELS_MOVE_WALK_CUH_
