// A Grid arranges the ranks of one module over named dimensions, the first
// dimension fastest, as Megatron-Core's HyperCommGrid and RankGenerator do.
//
//   index = sum_k coordinate_k * stride_k,   stride_k = prod_{j<k} size_j
//
// A *group* over a set of dimensions holds the indexes that differ in those
// dimensions only. Groups are numbered by the coordinates of the other
// dimensions, first dimension fastest; members ascend. Nothing is stored: a
// group of a million ranks costs what a group of eight costs until its members
// are asked for one by one.
//
// Indexes are positions in the module's list of ranks, not ranks (layout.h).

#ifndef PROTO_PLAN_GRID_H_
#define PROTO_PLAN_GRID_H_

#include <array>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

namespace shardwright {

enum class Dim : uint8_t {
  kTp,
  kGtpRemat,
  kCp,
  kDp,
  kPp,
  kEp,
  kExpertTp,
  kExpertGtpRemat,
  kExpertDp,
};
inline constexpr int kDimCount = 9;

// A set of dimensions. Immutable.
class DimSet {
 public:
  constexpr DimSet(std::initializer_list<Dim> dims) {
    for (Dim dim : dims) bits_ |= 1u << static_cast<int>(dim);
  }
  constexpr bool contains(Dim dim) const {
    return (bits_ >> static_cast<int>(dim)) & 1;
  }

 private:
  uint32_t bits_ = 0;
};

// `first`, and the numbers at fixed distances from it, the first dimension
// fastest: what a group is, in the space of the grid's dimensions.
struct Strided {
  struct Dimension {
    int64_t count = 1;
    int64_t stride = 1;
  };

  int64_t first = 0;
  std::vector<Dimension> dimensions;  // Empty: `first` alone.

  // The product of the counts.
  int64_t size() const;

  // Appends every number, in order.
  void AppendTo(std::vector<int64_t>& numbers) const;
};

// Immutable, cheap to copy, safe to share between threads.
class Grid {
 public:
  Grid() = default;

  // Dimensions with their sizes, fastest first. A dimension left out has
  // size 1. REQUIRES: no dimension twice, sizes positive, product below 2^31.
  explicit Grid(std::vector<std::pair<Dim, int64_t>> dims);

  // Number of indexes: the product of the sizes.
  int64_t count() const { return count_; }

  int64_t size(Dim dim) const { return sizes_[static_cast<int>(dim)]; }

  // 0 for a dimension left out. REQUIRES: 0 <= index < count().
  int64_t Coordinate(Dim dim, int64_t index) const;

  // Groups over `dims`: how many, and how many members each has.
  int64_t GroupCount(DimSet dims) const { return count_ / GroupSize(dims); }
  int64_t GroupSize(DimSet dims) const;

  // The group that holds `index`, and its position there.
  int64_t GroupOf(DimSet dims, int64_t index) const;
  int64_t PositionOf(DimSet dims, int64_t index) const;

  // The members of `group`. REQUIRES: 0 <= group < GroupCount(dims).
  Strided Group(DimSet dims, int64_t group) const;

  // Index of the member at `position` of `group`.
  // REQUIRES: 0 <= group < GroupCount(dims), 0 <= position < GroupSize(dims).
  int64_t Member(DimSet dims, int64_t group, int64_t position) const;

 private:
  std::vector<std::pair<Dim, int64_t>> dims_;
  std::array<int64_t, kDimCount> sizes_ = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  int64_t count_ = 1;
};

}  // namespace shardwright

#endif  // PROTO_PLAN_GRID_H_
