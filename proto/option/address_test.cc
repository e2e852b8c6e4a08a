// Is an address without a port told from one that has it?

#include "proto/option/address.h"

#include "gtest/gtest.h"

namespace shardwright {
namespace {

TEST(AddressTest, AllThatHasAPortIsLeftToTheLibrary) {
  for (const char* text : {"127.0.0.1:7070", "localhost:1", "[::1]:7070",
                           "dns:///host:1", "ipv4:127.0.0.1:1", "unix:/a/b"}) {
    EXPECT_EQ(CheckHasPort(text), "") << text;
  }
}

TEST(AddressTest, MissingPortIsNamed) {
  for (const char* text : {"", "localhost", "127.0.0.1", "127.0.0.1:", "[::1]",
                           "::1", "fe80::a"}) {
    EXPECT_EQ(CheckHasPort(text),
              "'" + std::string(text) + "' has no port: HOST:PORT");
  }
}

}  // namespace
}  // namespace shardwright
