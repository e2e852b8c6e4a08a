#include "proto/plan/grid.h"

#include <cstddef>

namespace shardwright {

int64_t Strided::size() const {
  int64_t product = 1;
  for (const Dimension& dimension : dimensions) product *= dimension.count;
  return product;
}

void Strided::AppendTo(std::vector<int64_t>& numbers) const {
  const size_t begin = numbers.size();
  numbers.push_back(first);
  // What is there so far, repeated at each further step of a dimension.
  for (const Dimension& dimension : dimensions) {
    const size_t count = numbers.size() - begin;
    numbers.reserve(begin + count * dimension.count);
    for (int64_t step = 1; step < dimension.count; ++step) {
      for (size_t i = 0; i < count; ++i) {
        numbers.push_back(numbers[begin + i] + step * dimension.stride);
      }
    }
  }
}

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

Strided Grid::Group(DimSet dims, int64_t group) const {
  Strided members;
  members.first = Member(dims, group, 0);
  int64_t stride = 1;
  for (const auto& [dim, size] : dims_) {
    if (dims.contains(dim) && size > 1) {
      Strided::Dimension* last =
          members.dimensions.empty() ? nullptr : &members.dimensions.back();
      if (last != nullptr && last->count * last->stride == stride) {
        last->count *= size;
      } else {
        members.dimensions.push_back({size, stride});
      }
    }
    stride *= size;
  }
  return members;
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
