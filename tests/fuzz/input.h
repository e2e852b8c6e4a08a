// Cuts a fuzzer's bytes into numbers and messages. Past the end everything is
// zero or empty, so that every input means something.

#ifndef TESTS_FUZZ_INPUT_H_
#define TESTS_FUZZ_INPUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace shardwright {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool empty() const { return size_ == 0; }

  uint8_t Byte() {
    if (empty()) return 0;
    --size_;
    return *data_++;
  }

  // A number below `count`.
  int Index(int count) { return Byte() % count; }

  // A message on the wire, after its length in two bytes, the low one first.
  // False: it is none.
  template <typename Message>
  bool Parse(Message& message) {
    const size_t low = Byte();
    const size_t length = std::min(size_, low + 256 * size_t{Byte()});
    const uint8_t* const begin = data_;
    data_ += length;
    size_ -= length;
    return message.ParseFromArray(begin, static_cast<int>(length));
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

}  // namespace shardwright

#endif  // TESTS_FUZZ_INPUT_H_
