// Is a number what a person reads in it, and nothing else taken for one?

#include "proto/option/integer.h"

#include <string>

#include "gtest/gtest.h"

namespace shardwright {
namespace {

// The text that is left, or what is wrong with it.
std::string Checked(std::string text, int64_t first = INT64_MIN,
                    int64_t last = INT64_MAX) {
  const std::string problem = IntegerIn(first, last)(text);
  return problem.empty() ? text : problem;
}

TEST(IntegerTest, LeadingZerosAreNoBase) {
  EXPECT_EQ(Checked("010"), "10");
  EXPECT_EQ(Checked("08"), "8");
  EXPECT_EQ(Checked("-007"), "-7");
  EXPECT_EQ(Checked("000"), "0");
}

TEST(IntegerTest, OnlyDigitsAndAMinusAreANumber) {
  for (const char* text : {"", "-", "x", "0x10", "5x", "5 ", " 5", "+5", "5.0",
                           "1e3", "--5", "99999999999999999999x"}) {
    EXPECT_EQ(Checked(text), "'" + std::string(text) + "' is not a number");
  }
}

TEST(IntegerTest, WhatDoesNotFitIsRefusedAndNotReplaced) {
  EXPECT_EQ(Checked("9223372036854775807"), "9223372036854775807");
  EXPECT_EQ(Checked("-9223372036854775808"), "-9223372036854775808");
  for (const char* text : {"9223372036854775808", "-9223372036854775809",
                           "99999999999999999999"}) {
    EXPECT_EQ(Checked(text), "'" + std::string(text) +
                                 "' is out of range: from -9223372036854775808 "
                                 "to 9223372036854775807");
  }
}

TEST(IntegerTest, BoundsBelongToTheRange) {
  EXPECT_EQ(Checked("1", 1, 3600), "1");
  EXPECT_EQ(Checked("3600", 1, 3600), "3600");
  EXPECT_EQ(Checked("0", 1, 3600), "'0' is out of range: from 1 to 3600");
  EXPECT_EQ(Checked("3601", 1, 3600), "'3601' is out of range: from 1 to 3600");
}

}  // namespace
}  // namespace shardwright
