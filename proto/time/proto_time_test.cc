#include "proto/time/proto_time.h"

#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace shardwright {
namespace {

TEST(ProtoTimeTest, WhatGoesOutComesBack) {
  for (const absl::Duration duration :
       {absl::ZeroDuration(), absl::Nanoseconds(1), absl::Milliseconds(1500),
        absl::Milliseconds(-1500), absl::Hours(100000)}) {
    EXPECT_EQ(FromProto(ToProto(duration)), duration);
  }
  const absl::Time time = absl::FromUnixNanos(1234567890123456789);
  EXPECT_EQ(FromProto(ToProto(time)), time);
}

TEST(ProtoTimeTest, AnyMessageIsADuration) {
  google::protobuf::Duration message;
  message.set_seconds(std::numeric_limits<int64_t>::max());
  message.set_nanos(std::numeric_limits<int32_t>::max());
  EXPECT_GT(FromProto(message), absl::Hours(1000000));
  message.set_seconds(std::numeric_limits<int64_t>::min());
  EXPECT_LT(FromProto(message), absl::ZeroDuration());
}

}  // namespace
}  // namespace shardwright
