#include "proto/plan/grid.h"

namespace shardwright {

Grid::Grid(std::vector<std::pair<Dim, int64_t>> dims) : dims_(std::move(dims)) {
  for (const auto& [dim, size] : dims_) {
    sizes_[static_cast<int>(dim)] = size;
    count_ *= size;
  }
}

int64_t Grid::Coordinate(Dim dim, int64_t index) const {
  for (const auto& [candidate, size] : dims_) {
    if (candidate == dim) return index % size;
    index /= size;
  }
  return 0;
}

int64_t Grid::GroupSize(DimSet dims) const {
  int64_t product = 1;
  for (const auto& [dim, size] : dims_) {
    if (dims.contains(dim)) product *= size;
  }
  return product;
}

int64_t Grid::GroupOf(DimSet dims, int64_t index) const {
  int64_t group = 0;
  int64_t stride = 1;
  for (const auto& [dim, size] : dims_) {
    if (!dims.contains(dim)) {
      group += index % size * stride;
      stride *= size;
    }
    index /= size;
  }
  return group;
}

int64_t Grid::PositionOf(DimSet dims, int64_t index) const {
  int64_t position = 0;
  int64_t stride = 1;
  for (const auto& [dim, size] : dims_) {
    if (dims.contains(dim)) {
      position += index % size * stride;
      stride *= size;
    }
    index /= size;
  }
  return position;
}

int64_t Grid::Member(DimSet dims, int64_t group, int64_t position) const {
  int64_t index = 0;
  int64_t stride = 1;
  for (const auto& [dim, size] : dims_) {
    int64_t& rest = dims.contains(dim) ? position : group;
    index += rest % size * stride;
    rest /= size;
    stride *= size;
  }
  return index;
}

}  // namespace shardwright
