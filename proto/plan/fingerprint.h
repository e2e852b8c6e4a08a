// A fixed 64-bit hash for digests that ranks compare: equal on every host and
// build, for ever. Not a secret and not for untrusted keys.

#ifndef PROTO_PLAN_FINGERPRINT_H_
#define PROTO_PLAN_FINGERPRINT_H_

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace shardwright {

// Feed values in one order, then read the digest. Each value is mixed as a
// 64-bit word; lengths are the caller's to add, so that ("ab", "c") and
// ("a", "bc") differ.
class Fingerprint {
 public:
  void Add(uint64_t word) { state_ = Mix(state_ ^ word); }
  void Add(absl::string_view text) {
    Add(text.size());
    for (unsigned char byte : text) Add(uint64_t{byte});
  }

  uint64_t digest() const { return Mix(state_); }

 private:
  // The finaliser of splitmix64: a bijection, so two sequences that differ in
  // one word always differ.
  static uint64_t Mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

  uint64_t state_ = 0;
};

// A digest as people and files have it: 16 hex digits.
inline std::string DigestText(uint64_t digest) {
  return absl::StrCat(absl::Hex(digest, absl::kZeroPad16));
}

}  // namespace shardwright

#endif  // PROTO_PLAN_FINGERPRINT_H_
