// What is wrong with regions, and with tensors in them, is refused by name.

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/rpc/regions_fixture.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

struct BadRegion {
  std::string name;
  std::function<void(v1::RegisterRegionRequest&)> spoil;
  std::string complaint;
};

class BadRegionTest : public RegionsTest,
                      public ::testing::WithParamInterface<BadRegion> {};

TEST_P(BadRegionTest, IsRefusedAndTheMessageNamesFieldAndValue) {
  v1::RegisterRegionRequest request = Registration("source", 0);
  GetParam().spoil(request);
  const auto response = client_.RegisterRegion(request);
  EXPECT_THAT(response, AllOf(HasReason("INVALID_REGION"),
                              StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr(GetParam().complaint))));
  EXPECT_THAT(response.status().message(), Not(HasSubstr("source.")));
  EXPECT_EQ(gpu_.mapping_count(), 2);
}

INSTANTIATE_TEST_SUITE_P(
    OneMistakeEach, BadRegionTest,
    ::testing::ValuesIn(std::vector<BadRegion>{
        {"OtherGpu", [](auto& r) { r.set_gpu_uuid("GPU-x"); },
         "gpu_uuid is \"GPU-x\""},
        {"ShortHandle", [](auto& r) { r.set_memory_handle("abc"); },
         "memory_handle has 3 bytes"},
        {"UnknownHandle",
         [](auto& r) { r.set_memory_handle(FakeRegionDevice::Handle("no")); },
         "memory_handle opens nothing"},
        {"NoBytes", [](auto& r) { r.set_size_bytes(0); }, "size_bytes is 0"},
        {"NegativeOffset", [](auto& r) { r.set_offset_bytes(-1); },
         "offset_bytes is -1"},
        {"PastTheEnd", [](auto& r) { r.set_offset_bytes(3); },
         "offset_bytes is 3 and size_bytes 6, but allocation_bytes is 8"},
        {"Overflow",
         [](auto& r) {
           r.set_offset_bytes(1);
           r.set_size_bytes(INT64_MAX);
         },
         "size_bytes 9223372036854775807"},
        {"NegativeAllocation",
         [](auto& r) { r.set_allocation_bytes(INT64_MIN); },
         "allocation_bytes is -9223372036854775808"},
        {"LargerThanTheAllocation", [](auto& r) { r.set_allocation_bytes(9); },
         "allocation_bytes is 9, but the handle's allocation has 8 bytes"},
    }),
    [](const auto& info) { return info.param.name; });

struct BadTensor {
  std::string name;
  std::function<void(v1::CopyOperation&)> spoil;
  std::string complaint;
};

class BadTensorTest : public RegionsTest,
                      public ::testing::WithParamInterface<BadTensor> {};

TEST_P(BadTensorTest, IsRefusedAndNothingStarts) {
  v1::CopyOperation operation = Operation();
  GetParam().spoil(operation);
  EXPECT_THAT(Run({Operation(), operation}),
              AllOf(HasReason("INVALID_TENSOR"),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr(GetParam().complaint))));
  EXPECT_THAT(gpu_.starts(), ElementsAre());
  EXPECT_EQ(gpu_.BytesOf("shard"), "..??????");
}

INSTANTIATE_TEST_SUITE_P(
    OneMistakeEach, BadTensorTest,
    ::testing::ValuesIn(std::vector<BadTensor>{
        {"NoSuchRegion",
         [](auto& o) { o.mutable_sources(0)->mutable_region()->set_id(77); },
         "operations[1]: source 0 is in region 77"},
        {"PastTheEnd",
         [](auto& o) {
           o.mutable_destination()->mutable_region()->set_offset_bytes(1);
         },
         "the destination has 6 bytes at offset 1, but region"},
        {"Overflow",
         [](auto& o) {
           o.mutable_sources(0)->mutable_region()->set_offset_bytes(INT64_MAX);
         },
         "at offset 9223372036854775807"},
        {"WrongSize",
         [](auto& o) {
           o.mutable_sources(0)->mutable_region()->set_size_bytes(4);
         },
         "source 0 has 4 bytes"},
        {"Mixed",
         [](auto& o) { o.mutable_sources(0)->set_inline_data("aabbcc"); },
         "source 0 is in host memory, but another tensor of the operation in "
         "a region"},
        {"ElementDoesNotDivide", [](auto& o) { o.set_element_bytes(4); },
         "element_bytes is 4"},
        {"NegativeElement", [](auto& o) { o.set_element_bytes(-1); },
         "element_bytes is -1"},
        {"HugeElement", [](auto& o) { o.set_element_bytes(int64_t{1} << 40); },
         "element_bytes is 1099511627776"},
        {"FillDoesNotDivide", [](auto& o) { o.set_fill_value("abc"); },
         "fill value has 3 bytes"},
    }),
    [](const auto& info) { return info.param.name; });

TEST_F(RegionsTest, TensorsHaveToBeAlignedToTheirElements) {
  v1::CopyOperation operation = Operation();
  operation.set_element_bytes(2);  // The source begins at an odd address.
  EXPECT_THAT(Run({operation}),
              AllOf(HasReason("INVALID_TENSOR"),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("source 0 is 1 bytes behind a multiple "
                                       "of its element_bytes 2"))));
}

TEST_F(RegionsTest, AFillValueForTheHostOnlyIsRefused) {
  v1::CopyOperation operation = Operation();
  operation.set_row_bytes(6);
  operation.set_fill_value("abc");
  operation.mutable_table()->clear_entries();
  operation.mutable_table()->set_source_rows(0, 1);
  operation.mutable_table()->set_destination_rows(1);
  v1::RowCopy& entry = *operation.mutable_table()->add_entries();
  entry.set_source(0);
  entry.set_destination_stride(1);
  entry.set_row_count(1);
  EXPECT_THAT(Run({operation}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("must have 1, 2, 4, 8 or 16 for regions")));
}

}  // namespace
}  // namespace shardwright
